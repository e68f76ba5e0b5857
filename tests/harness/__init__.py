"""What the tests of running brokers share: starting, stopping and killing them, and looking at them."""
