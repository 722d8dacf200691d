fn main() {
    assemble::sandbox::run_if_helper();
}
