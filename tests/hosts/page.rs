//! The commands of `docs/ci.md`, read from the page itself, so that it says what was tried.

/// What the page tells to run: the title of a section, and a block of shell below it.
pub struct Page {
    blocks: Vec<(String, String)>,
}

impl Page {
    /// The page's variants become the example's only one.
    pub fn read() -> Self {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ci.md")).unwrap();
        let (mut section, mut block, mut blocks) = (String::new(), None::<String>, Vec::new());
        for line in text.lines() {
            match (&mut block, line) {
                (None, "```sh") => block = Some(String::new()),
                (None, _) if line.starts_with("```") => panic!("`{line}` is no shell that could be run"),
                (None, _) => section = line.strip_prefix("## ").map_or(section, str::to_owned),
                (Some(_), "```") => blocks.extend(block.take().map(|block| (section.clone(), block))),
                (Some(block), _) => *block += &(of_the_example(line) + "\n"),
            }
        }
        Self { blocks }
    }

    /// The sections that have blocks, and how many.
    pub fn outline(&self) -> Vec<(&str, usize)> {
        let chunks = self.blocks.chunk_by(|one, other| one.0 == other.0);
        chunks.map(|blocks| (blocks[0].0.as_str(), blocks.len())).collect()
    }

    /// The blocks of a section.
    #[track_caller]
    pub fn commands<const COUNT: usize>(&self, section: &str) -> [&str; COUNT] {
        let blocks = self.blocks.iter().filter(|block| block.0 == section).map(|block| block.1.as_str());
        blocks.collect::<Vec<_>>().try_into().unwrap_or_else(|blocks| panic!("`{section}`: {blocks:?}"))
    }
}

fn of_the_example(line: &str) -> String {
    line.replace("binary source", "tiny").replace("source", "tiny")
}
