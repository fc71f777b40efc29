//! What we cut is what the kernel cuts: one packet takes both ways.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use weft_testkit::{Lab, skipped};

use crate::merge::tests::stream;
use crate::packet::{Layout, Transport, be16};
use crate::split::split;
use crate::tun::{BUFFER, Tun};
use crate::vnet::Header;

/// A router between a device that takes large packets and one that takes none, so that the kernel cuts what passes.
fn router() -> (Lab, Tun, Tun) {
    let lab = Lab::new();
    lab.set_sysctl("ipv4/ip_forward", "1");
    lab.set_sysctl("ipv6/conf/all/forwarding", "1");
    let open = |name: &str, offload| Tun::open(&name.parse().unwrap(), offload).unwrap();
    let devices = (open("in0", true), open("out0", false));
    lab.ip("link set in0 address 02:77:65:66:74:01 arp off up");
    lab.ip("link set out0 arp off up");
    lab.ip("route add 10.0.0.0/24 dev out0");
    lab.ip("route add fd00::/8 dev out0");
    (lab, devices.0, devices.1)
}

/// Does to a packet what passing a router does.
fn passed(packet: &mut [u8]) {
    let v6 = packet[0] >> 4 == 6;
    packet[if v6 { 7 } else { 8 }] -= 1;
    if !v6 {
        let layout = Layout::read(packet, None).unwrap();
        layout.inner.set_end(packet, usize::from(be16(packet, 2).unwrap()));
    }
}

/// Reads packets of the stream until there are so many.
fn heard(from: &Tun, count: usize) -> Vec<Vec<u8>> {
    let (mut buffer, mut found) = (vec![0; BUFFER], Vec::new());
    let begun = Instant::now();
    while found.len() < count && begun.elapsed() < Duration::from_secs(10) {
        let Some((header, packet)) = from.read(&mut buffer).unwrap() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        assert_eq!(header, Header::default(), "the kernel has left something to do");
        let layout = Layout::read(packet, Some(stream::VXLAN));
        // Not what the kernel says of its own accord.
        if layout.is_some_and(|layout| be16(packet, layout.inner.transport) == Some(12345)) {
            found.push(packet.to_vec());
        }
    }
    found
}

#[test]
fn the_kernel_cuts_as_we_do() {
    let (_lab, inner, outer) = router();
    let takes = |case: &stream::Case| {
        (inner.takes_tunnels() || !case.vxlan) && (inner.takes_udp() || case.kind == Transport::Tcp)
    };
    let (cases, without): (Vec<_>, Vec<_>) = stream::cases().into_iter().partition(takes);
    if !without.is_empty() {
        skipped(format!("Linux 6.17 for {without:?}"));
    }
    let shapes = (0..cases.len(), 2usize..40, 1usize..1300);
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, ..ProptestConfig::default() });
    let outcome = runner.run(&shapes, |(case, count, size)| {
        let case = &cases[case];
        let segments = stream::segments(case, count, size);
        let (header, bytes) = stream::merged(case, &segments);
        let mut ours = Vec::new();
        // No MTU, no padding.
        prop_assert!(split(header, &bytes, 0, &mut BytesMut::new(), |part| ours.push(part.to_vec())));
        ours.iter_mut().for_each(|packet| passed(packet));
        inner
            .write(header, std::iter::once(&bytes[..]))
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let theirs = heard(&outer, ours.len());
        prop_assert_eq!(theirs.len(), ours.len());
        for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
            prop_assert_eq!(theirs, ours, "segment {} of {:?}", number, case);
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
