//! What everything that uses a network stands on: addresses, who is asked by which login, what the machine's
//! own settings say, and HTTP itself. It knows nothing of what is asked for.

mod address;
mod date;
pub(crate) mod http;
mod login;
mod machine;

pub use address::Address;
pub(crate) use address::{decode, without_logins};
pub(crate) use date::{civil, parse as parse_date};
pub(crate) use login::Logins;
pub use machine::Machine;
