//! The firewall on the real kernel, inside private namespaces: rules judged by traffic.

#![cfg(test)]

mod admission;
mod calls;
mod guard;
mod iptables;
mod isolation;
mod lab;
mod localnet;
mod loopback;
mod neighbours;
mod ownership;
mod ports;
mod publishing;
mod reference;
mod refused;
mod spoof;
mod strangers;
mod traffic;
mod tunnels;
mod upstream;
mod weft;
