//! Who may do what: users, passwords, permissions, and the checks that the
//! connection code asks for.

mod checks;
mod password;
mod permission;
mod user;

pub use checks::{Actor, Permission};
pub use password::{HashingAlgorithm, PasswordHash, SALT_SIZE};
pub use permission::{TopicPermissions, UserPermissions};
pub use user::{User, UserLimits};
