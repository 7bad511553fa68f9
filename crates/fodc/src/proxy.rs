//! The proxy: knows the agents and asks them.
