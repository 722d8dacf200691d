//! NVIDIA's `cuobjdump` as the oracle of what is read in fat binaries: on files that nvcc 11.8 makes
//! here, on NVIDIA's own static libraries, and on PyTorch's wheel.
//!
//! A gigabyte of packages and one of wheel, so it runs where `ASSEMBLE_REAL=1` asks for it. The toolkit
//! is Debian's, non-free; its packages are fetched from where this machine's apt fetches its own, and
//! unpacked into a folder that goes with the test. The wheel is taken from the store that the
//! environment names, if it is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::support::{output, skipped};
use assemble::inspect::gpu::{Code, FileRange, Specific};
use assemble_layers::lock::Distribution;

/// `sm_86 cubin` → how many there are.
type Counts = BTreeMap<String, u64>;

/// Unpacks what compiling a kernel and `cuobjdump` need, and has nvcc look for it there.
const TOOLKIT: &str = r#"
set -eu
cd "$1"
mkdir -p apt/state/lists/partial apt/cache/archives/partial apt/parts debs root
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Release: bookworm' | head -1)
[ -n "$archive" ] || { echo "apt's sources name no archive of Debian 12" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive bookworm main non-free" > apt/sources
cat > apt/conf <<END
Dir::State "$1/apt/state";
Dir::Cache "$1/apt/cache";
Dir::State::status "/var/lib/dpkg/status";
Dir::Etc::sourcelist "$1/apt/sources";
Dir::Etc::sourceparts "$1/apt/parts";
APT::Sandbox::User "root";
END
export APT_CONFIG="$1/apt/conf"
apt-get update -q
cd debs
apt-get download -q nvidia-cuda-toolkit nvidia-cuda-dev gcc-11 g++-11 cpp-11 libgcc-11-dev libstdc++-11-dev \
    libisl23 libmpc3 libmpfr6 libgmp10
for deb in *.deb; do
    case $deb in
        nvidia-cuda-dev_*)
            dpkg-deb --fsys-tarfile "$deb" | tar -x -C ../root --wildcards './usr/include/*' \
                './usr/lib/x86_64-linux-gnu/libcud*.a' './usr/lib/x86_64-linux-gnu/libnppidei_static.a' ;;
        *) dpkg-deb -x "$deb" ../root ;;
    esac
    rm "$deb"
done
cd ../root
bin=$PWD/usr/lib/nvidia-cuda-toolkit/bin
rm "$bin/nvcc.profile"
cat > "$bin/nvcc.profile" <<END
NVVMIR_LIBRARY_DIR = $PWD/usr/lib/nvidia-cuda-toolkit/libdevice
PATH += $PWD/usr/bin:$bin:
INCLUDES += "-I$PWD/usr/include" \$(_SPACE_)
LIBRARIES =+ \$(_SPACE_) "-L$PWD/usr/lib/x86_64-linux-gnu"
END
"#;

const ONE: &str = r"
__global__ void scale(float *values, float factor) { values[threadIdx.x] *= factor; }
void launch(float *values) { scale<<<1, 32>>>(values, 2.0f); }
";
const TWO: &str = r"
__device__ float half_of(float x) { return x / 2; }
__global__ void halve(float *values) { values[threadIdx.x] = half_of(values[threadIdx.x]); }
int main() { halve<<<1, 32>>>(nullptr); return 0; }
";

/// What nvcc makes, and how: every kind of file, compressed and not, with and without PTX, with and
/// without a device link.
const FILES: [(&str, &str); 7] = [
    (
        "shared.so",
        "-shared -Xcompiler -fPIC -cudart none -gencode arch=compute_52,code=sm_52 \
      -gencode arch=compute_70,code=sm_70 -gencode arch=compute_86,code=[sm_86,compute_86] one.cu",
    ),
    (
        "compressed.so",
        "-shared -Xcompiler -fPIC -cudart none -Xfatbin -compress-all \
      -gencode arch=compute_50,code=sm_50 -gencode arch=compute_90,code=[sm_90,compute_90] one.cu two.cu",
    ),
    (
        "plain.so",
        "-shared -Xcompiler -fPIC -cudart none -Xfatbin -compress=false -gencode arch=compute_60,code=compute_60 one.cu",
    ),
    (
        "program",
        "-gencode arch=compute_52,code=sm_52 -gencode arch=compute_80,code=[sm_80,compute_80] one.cu two.cu",
    ),
    ("linked", "-rdc=true -gencode arch=compute_61,code=sm_61 one.cu two.cu"),
    (
        "static.a",
        "-lib -gencode arch=compute_35,code=sm_35 -gencode arch=compute_75,code=[sm_75,compute_75] one.cu two.cu",
    ),
    (
        "relocatable.a",
        "-lib -rdc=true -gencode arch=compute_61,code=sm_61 -gencode arch=compute_75,code=[sm_75,compute_75] one.cu two.cu",
    ),
];

/// Whether this is asked for; root, as `.ci/run` is.
fn is_asked_for() -> bool {
    let asked = std::env::var_os("ASSEMBLE_REAL").is_some_and(|value| value == "1");
    if !asked {
        skipped("NVIDIA's tools as an oracle: they take gigabytes; `ASSEMBLE_REAL=1` asks for them");
    }
    asked
}

struct Toolkit {
    folder: tempfile::TempDir,
}

impl Toolkit {
    fn fetch() -> Self {
        let folder = tempfile::Builder::new().prefix("cuda-toolkit-").tempdir().unwrap();
        output(Command::new("sh").args(["-c", TOOLKIT, "sh"]).arg(folder.path()));
        std::fs::write(folder.path().join("one.cu"), ONE).unwrap();
        std::fs::write(folder.path().join("two.cu"), TWO).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn compile(&self, name: &str, how: &str) -> PathBuf {
        let mut nvcc = Command::new(self.path("root/usr/lib/nvidia-cuda-toolkit/bin/nvcc"));
        nvcc.current_dir(self.folder.path()).arg("-ccbin").arg(self.path("root/usr/bin/g++-11"));
        nvcc.env("LD_LIBRARY_PATH", self.path("root/usr/lib/x86_64-linux-gnu"));
        output(nvcc.args(how.split_whitespace()).args(["-o", name]));
        self.path(name)
    }

    /// What `cuobjdump` lists: `ELF file    1: shared.1.sm_52.cubin`.
    fn listed(&self, file: &Path) -> Counts {
        let mut counts = Counts::new();
        let mut cuobjdump = Command::new(self.path("root/usr/bin/cuobjdump"));
        let text = output(cuobjdump.args(["--list-elf", "--list-ptx"]).arg(file));
        for line in String::from_utf8(text).unwrap().lines().filter(|line| line.contains(" file ")) {
            let mut parts = line.rsplit('.');
            let (kind, architecture) = (parts.next().unwrap(), parts.next().unwrap());
            *counts.entry(format!("{architecture} {kind}")).or_default() += 1;
        }
        counts
    }
}

fn read(file: &Path) -> Code {
    let file = Arc::new(fs_err::File::open(file).unwrap());
    let range = 0..file.metadata().unwrap().len();
    Code::read(&FileRange { file, range }).unwrap()
}

/// As `cuobjdump` 11.8 counts, which does not know of `a`.
fn counted(code: &Code) -> Counts {
    let mut counts = Counts::new();
    for (fatbin, count) in code.fatbins() {
        for (architectures, kind) in [(&fatbin.cubins, "cubin"), (&fatbin.ptx, "ptx")] {
            for architecture in architectures {
                let name = architecture.to_string();
                let number = name.trim_end_matches(['a', 'f']);
                *counts.entry(format!("sm_{number} {kind}")).or_default() += count;
            }
        }
    }
    counts
}

#[test]
fn cuobjdump_lists_what_is_read() {
    if !is_asked_for() {
        return;
    }
    let toolkit = Toolkit::fetch();
    for (name, how) in FILES {
        let file = toolkit.compile(name, how);
        let code = read(&file);
        assert!(!code.is_empty(), "{name}");
        assert_eq!(counted(&code), toolkit.listed(&file), "{name}");
    }
    for library in ["libcudadevrt.a", "libnppidei_static.a"] {
        let file = toolkit.path("root/usr/lib/x86_64-linux-gnu").join(library);
        let code = read(&file);
        assert!(code.cubins().len() > 5, "{library}");
        assert_eq!(counted(&code), toolkit.listed(&file), "{library}");
    }
    torch(&toolkit);
}

/// The default index's build of 2.7.1: for 5.0 to 9.0, and nothing that runs on what is later.
fn torch(toolkit: &Toolkit) {
    let wheel = torch_wheel(toolkit);
    let mut archive = zip::ZipArchive::new(std::fs::File::open(wheel).unwrap()).unwrap();
    let library = toolkit.path("libtorch_cuda.so");
    let mut member = archive.by_name("torch/lib/libtorch_cuda.so").unwrap();
    std::io::copy(&mut member, &mut std::fs::File::create(&library).unwrap()).unwrap();
    let code = read(&library);
    let targets: Vec<_> = code.targets().iter().map(ToString::to_string).collect();
    assert_eq!(targets, ["5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0"]);
    let serves = |capability: &str| code.serving(capability.parse().unwrap());
    for capability in ["5.0", "5.2", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0"] {
        assert_eq!(serves(capability), code.count(), "{capability}");
    }
    assert_eq!((serves("3.5"), serves("10.0"), serves("12.0")), (0, 0, 0));
    // Kernels for Hopper alone stand beside those for all.
    assert!(code.cubins().iter().any(|cubin| cubin.specific == Specific::Architecture));
    assert_eq!(counted(&code), toolkit.listed(&library));
}

fn torch_wheel(toolkit: &Toolkit) -> PathBuf {
    let lock = assemble::lock::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assemble.lock"));
    let packages = lock.unwrap().unwrap().python.packages;
    let torch: Distribution = packages.into_iter().find(|package| package.name == "torch").unwrap();
    let store = std::env::var_os("ASSEMBLE_STORE").map(PathBuf::from);
    let stored = store.map(|store| store.join("blobs").join(torch.file.sha256.to_string()));
    if let Some(stored) = stored.filter(|stored| stored.exists()) {
        return stored;
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"]);
    output(pip.arg(format!("torch=={}", torch.version)).arg("--dest").arg(toolkit.path("wheels")));
    toolkit.path("wheels").join(torch.file.name)
}
