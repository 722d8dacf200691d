//! `assemble variants`.

use assemble_layers::Recipes;

use crate::Result;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    let variants = recipes.variants();
    if arguments.json {
        let list =
            variants.iter().map(|it| serde_json::json!({"name": it.name, "description": it.description}));
        return super::print_json(&serde_json::Value::from(list.collect::<Vec<_>>()));
    }
    let width = variants.iter().map(|variant| variant.name.len()).max().unwrap_or(0);
    variants
        .iter()
        .try_for_each(|variant| super::print(format!("{:width$}  {}", variant.name, variant.description)))
}
