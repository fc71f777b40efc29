use super::*;

#[test]
fn a_peer_is_written_as_the_kernel_reads_it() {
    let mut request = Attributes::request(30, libc::NLM_F_ACK, wg::SET_DEVICE);
    let peer = SetPeer {
        endpoint: Some("192.0.2.7:51820".parse().unwrap()),
        allowed: Some(vec!["fd00::1/128".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]),
        preshared_key: Some([9; 32]),
        ..SetPeer::new([7; 32])
    };
    request.nest(wg::PEERS, |list| list.nest(0, |entry| write_peer(entry, &peer)));
    let bytes = request.finish();
    assert_eq!(u32_at(&bytes, 0).unwrap() as usize, bytes.len());
    let device = read_device(&bytes[16..]);
    assert_eq!(device.peers.len(), 1);
    assert_eq!(device.peers[0].public_key, [7; 32]);
    assert_eq!(device.peers[0].endpoint, peer.endpoint);
    assert_eq!(Some(device.peers[0].preshared_key), peer.preshared_key);
    assert_eq!(Some(&device.peers[0].allowed), peer.allowed.as_ref());
    for address in ["[2001:db8::1]:1", "1.2.3.4:65535"] {
        let address = address.parse().unwrap();
        assert_eq!(read_socket_address(&socket_address(address)), Some(address));
    }
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut request = Attributes::request(30, 0, 0);
    request.nest(wg::PEERS, |list| {
        list.nest(0, |entry| {
            entry.put(wg::PEER_KEY, &[1; 32]);
            entry.put(wg::PEER_HANDSHAKE, &[0xff; 16]);
            entry.put(wg::PEER_ENDPOINT, &socket_address("[::1]:9".parse().unwrap()));
            entry.put(wg::PEER_SECRET, &[2; 32]);
            entry.nest(wg::PEER_ALLOWED, |list| {
                list.nest(0, |entry| {
                    entry.put(wg::ADDRESS, &[1; 4]);
                    entry.put(wg::MASK, &[8]);
                });
            });
        });
    });
    let bytes = request.finish();
    for position in 16..bytes.len() {
        for value in [0, 1, 3, 4, 5, 36, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[position] = value;
            read_device(&changed[16..]);
            read_device(&changed[16..position]);
        }
    }
}

#[test]
fn no_preshared_key_is_printed() {
    let secret = [0xab; 32];
    let found = PeerInfo { preshared_key: secret, ..PeerInfo::default() };
    let device = WireguardInfo { peers: vec![found], ..WireguardInfo::default() };
    let peer = SetPeer { preshared_key: Some(secret), ..SetPeer::new([7; 32]) };
    // The public key is printed as numbers, and so would the secret be.
    let printed = format!("{device:?} {peer:?}");
    assert!(printed.contains("7, 7") && !printed.contains("171"), "{printed}");
    assert!(printed.contains("preshared_key: .."), "{printed}");
}
