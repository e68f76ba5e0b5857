//! The records that the metadata machine holds. Plain data: what may become of
//! them is decided in `ops`, where messages go in `routing`.

mod arguments;
mod binding;
mod exchange;
mod name;
mod node;
mod queue;
mod settings;

pub use arguments::Arguments;
pub use binding::{Binding, BindingId, Destination};
pub use exchange::{ExchangeInfo, ExchangeType};
pub use name::{Key, Name, OwnerId, QueueId, Resource, ResourceKind, strip_cr_lf};
pub use node::{ForgottenNode, Formed, NodeInfo, NodeState};
pub use queue::{QueueInfo, QueueType};
pub use settings::{DeadLetterStrategy, EffectiveQueueSettings, HaMode, Overflow};
