//! Ports for the brokers under comparison.

use std::net::TcpListener;

use crate::error::{Error, Result};

/// Ports of a block: three nodes and what they and their tools need besides.
pub const BLOCK: u16 = 24;
/// Where Leveret's nodes reach each other: their AMQP port and this.
const PEER_DISTANCE: u16 = 20_000;
/// Blocks lie in this range, and so do their ports for peers, below the ports that Linux gives to outgoing connections (32768 and
/// above): none of those can take a port between the choice and its use.
const LOWEST: u16 = 10_000;
const BLOCKS: u16 = (32_768 - PEER_DISTANCE - LOWEST) / BLOCK;

/// Gives each broker a block of its own. Nothing listens on it until the broker runs, so a second choice could find the same
/// ports free: nodes of two clusters on the same ports were once taken for nodes that do not find each other.
pub struct Ports {
    first: u16,
    given: u16,
}

impl Ports {
    /// Begins somewhere, so that two runs side by side seldom meet.
    pub fn new() -> Ports {
        Ports {
            first: (std::process::id() % u32::from(BLOCKS)) as u16,
            given: 0,
        }
    }

    /// The first of [`BLOCK`] ports in a row on which nobody listens, nor on their peers' ports.
    ///
    /// # Errors
    /// There are none left.
    pub fn block(&mut self) -> Result<u16> {
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        while self.given < BLOCKS {
            let base = LOWEST + (self.first + self.given) % BLOCKS * BLOCK;
            self.given += 1;
            if (0..BLOCK).all(|n| free(base + n) && free(base + n + PEER_DISTANCE)) {
                return Ok(base);
            }
        }
        Err(Error::Failed("no free ports".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_is_given_twice() {
        let mut ports = Ports::new();
        let mut given: Vec<u16> = (0..20).map(|_| ports.block().unwrap()).collect();
        let _taken = TcpListener::bind(("127.0.0.1", given[0])).unwrap();
        assert_ne!(Ports::new().block().unwrap(), given[0]);
        given.sort_unstable();
        assert!(given.windows(2).all(|w| w[1] - w[0] >= BLOCK), "{given:?}");
        assert!(given.iter().all(|p| p + BLOCK + PEER_DISTANCE <= 32_768));
    }
}
