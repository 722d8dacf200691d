//! Well-known cards by compute capability (NVIDIA, "CUDA GPU Compute Capability").

use assemble_layers::gpu::Capability;

/// The capabilities that a person may have a card of, oldest first.
pub const CARDS: [(Capability, &str); 14] = [
    (Capability::new(5, 0), "GTX 750 Ti, Quadro K2200"),
    (Capability::new(5, 2), "GTX 960, GTX 970, GTX 980 Ti, GTX Titan X, Tesla M40"),
    (Capability::new(6, 0), "Tesla P100"),
    (Capability::new(6, 1), "GTX 1060, GTX 1070, GTX 1080 Ti, Tesla P4, Tesla P40"),
    (Capability::new(7, 0), "Tesla V100, Titan V"),
    (Capability::new(7, 5), "RTX 2060, RTX 2080 Ti, GTX 1650, GTX 1660, T4"),
    (Capability::new(8, 0), "A100, A30"),
    (Capability::new(8, 6), "RTX 3060, RTX 3080, RTX 3090, A10, A40, RTX A6000"),
    (Capability::new(8, 9), "RTX 4060, RTX 4080, RTX 4090, L4, L40S"),
    (Capability::new(9, 0), "H100, H200, GH200"),
    (Capability::new(10, 0), "B200, GB200"),
    (Capability::new(10, 3), "B300, GB300"),
    (Capability::new(12, 0), "RTX 5060, RTX 5080, RTX 5090, RTX PRO 6000"),
    (Capability::new(12, 1), "GB10 (DGX Spark)"),
];

/// The cards of a capability; `None` where none is well known.
pub fn cards(capability: Capability) -> Option<&'static str> {
    CARDS.iter().find(|(known, _)| *known == capability).map(|(_, cards)| *cards)
}
