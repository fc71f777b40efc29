//! Transactions on the real kernel, inside a private network namespace, judged by what `nft` lists.

#![cfg(test)]

use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use weft_netns::isolate;
use weft_nft::expr::{self, Comparison, Conntrack, Field, Found, Meta, Reg, Verdict, is_family, is_within};
use weft_nft::{
    Base, ChainKind, Data, Element, Error, Expr, Family, Hook, Key, Known, Policy, Set, Socket, Table,
    Transaction, Type, Values, is_usable,
};

const TABLE: Table = Table::new(Family::Inet, "weft_test");

/// Returns what `nft` prints for these arguments, without indentation; `None` if it is not installed.
fn nft(arguments: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the listing is the judge")]
    let Ok(output) = Command::new("nft").args(arguments.split(' ')).output() else {
        weft_testkit::skipped("nft");
        return None;
    };
    assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().replace('\t', ""))
}

fn addr(text: &str) -> Key {
    Key::new().addr(text.parse().unwrap())
}

fn numbers() -> Set {
    Set::new(TABLE, "numbers", &[Type::Ipv4Addr]).expiring()
}

fn number(i: u32) -> Element {
    Element::new(Key::new().addr(IpAddr::from(i.to_be_bytes())))
}

fn with_numbers() -> Socket {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    socket.commit(Transaction::new().table(TABLE, None).set(&numbers())).unwrap();
    socket
}

#[test]
fn every_expression_reads_back_as_it_was_meant() {
    isolate().unwrap();
    assert!(is_usable());
    let mut socket = Socket::open().unwrap();
    let base = Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100, policy: Policy::Accept };
    let chain = TABLE.base_chain("out", base);
    let other = TABLE.chain("other").comment("reached by jumps");
    let pairs = Set::new(TABLE, "pairs", &[Type::Ipv4Addr, Type::Ipv4Addr]);
    let ports = Set::new(TABLE, "ports", &[Type::IfName]).to(Values::Verdict);
    let v4: IpAddr = "10.0.0.5".parse().unwrap();
    let mut saddr = Vec::from(is_family(v4));
    saddr.extend(is_within(Field::IP4_SOURCE, v4.into(), Comparison::Equal));
    saddr.extend(is_within(Field::IP4_DESTINATION, "10.0.0.0/24".parse().unwrap(), Comparison::NotEqual));
    saddr.extend([Expr::Counter, Expr::Masquerade]);
    let mut daddr6 = Vec::from(is_family("::".parse().unwrap()));
    daddr6.extend(is_within(Field::IP6_DESTINATION, "ff00::/8".parse().unwrap(), Comparison::Equal));
    daddr6.push(Expr::Verdict(Verdict::Return));
    let mut looked_up = Vec::from(is_family(v4));
    looked_up.extend([
        Expr::Payload(Field::IP4_SOURCE, Reg(0)),
        Expr::Payload(Field::IP4_DESTINATION, Reg(1)),
        Expr::Lookup("pairs".into(), Reg(0), Found::NoMatch),
        Expr::Verdict(Verdict::Accept),
    ]);
    let translated = [
        Expr::Conntrack(Conntrack::Status, Reg(0)),
        Expr::Mask(Reg(0), 0x20u32.to_ne_bytes().to_vec()),
        Expr::Compare(Reg(0), Comparison::NotEqual, vec![0; 4]),
        Expr::Verdict(Verdict::Goto("other".into())),
    ];
    socket
        .commit(
            Transaction::new()
                .table(TABLE, Some("made by a test"))
                .chain(&chain)
                .chain(&other)
                .set(&pairs)
                .set(&ports)
                .rule(chain.rule(saddr).comment("one address"))
                .rule(chain.rule(daddr6))
                .rule(chain.rule(looked_up))
                .rule(chain.rule(translated))
                .rule(chain.rule([
                    Expr::Meta(Meta::OutputName, Reg(0)),
                    Expr::Lookup("ports".into(), Reg(0), Found::Verdict),
                ]))
                .rule(other.rule([Expr::Verdict(Verdict::Drop)]))
                .elements(&pairs, vec![Element::new(addr("10.0.0.1").addr("10.0.0.2".parse().unwrap()))])
                .elements(
                    &ports,
                    vec![
                        Element::new(Key::new().ifname("veth0123456789a"))
                            .to(Data::Verdict(Verdict::Jump("other".into())))
                            .comment("a port"),
                    ],
                ),
        )
        .unwrap();

    let Some(listing) = nft("list table inet weft_test") else { return };
    assert_eq!(
        listing,
        r#"table inet weft_test {
comment "made by a test"
set pairs {
type ipv4_addr . ipv4_addr
elements = { 10.0.0.1 . 10.0.0.2 }
}

map ports {
type ifname : verdict
elements = { "veth0123456789a" comment "a port" : jump other }
}

chain out {
type nat hook postrouting priority srcnat; policy accept;
ip saddr 10.0.0.5 ip daddr != 10.0.0.0/24 counter packets 0 bytes 0 masquerade comment "one address"
ip6 daddr ff00::/8 return
ip saddr . ip daddr != @pairs accept
ct status dnat goto other
oifname vmap @ports
}

chain other {
comment "reached by jumps"
drop
}
}
"#
    );
}

#[test]
fn ranges_are_single_elements() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let subnets = Set::new(TABLE, "subnets", &[Type::Ipv4Addr]).intervals();
    let ports = Set::new(TABLE, "ports", &[Type::InetProto, Type::InetService])
        .intervals()
        .to(Values::Data(&[Type::Ipv4Addr, Type::InetService]));
    let key = |port| Key::new().proto(6).port(port);
    let target = addr("10.0.0.2").port(80);
    socket
        .commit(
            Transaction::new()
                .table(TABLE, None)
                .set(&subnets)
                .set(&ports)
                .elements(
                    &subnets,
                    vec![
                        Element::range(addr("10.1.0.0"), addr("10.1.255.255")),
                        Element::new(addr("10.9.0.1")),
                        Element::range(addr("255.0.0.0"), addr("255.255.255.255")),
                    ],
                )
                .elements(&ports, vec![Element::range(key(8000), key(9000)).to(Data::Value(target.clone()))]),
        )
        .unwrap();

    assert!(socket.element(&subnets, &addr("10.1.0.0")).unwrap().is_some());
    let found = socket.element(&ports, &key(8000)).unwrap().unwrap();
    assert_eq!(found.value, Some(vec![10, 0, 0, 2, 0, 80, 0, 0]), "the value is {target:?}");
    assert_eq!(socket.element(&ports, &key(7999)).unwrap(), None);
    let Some(listing) = nft("list table inet weft_test") else { return };
    for element in ["10.1.0.0/16, 10.9.0.1,", "255.0.0.0/8 }", "{ tcp . 8000-9000 : 10.0.0.2 . 80 }"] {
        assert!(listing.contains(element), "{listing}");
    }
}

#[test]
fn a_refusal_names_the_object_and_nothing_happens() {
    let mut socket = with_numbers();
    let before = socket.generation().unwrap();

    let error = socket
        .commit(
            Transaction::new()
                .elements(&numbers(), vec![number(1)])
                .chain(&TABLE.chain("fine"))
                .rule(TABLE.chain("missing").rule([Expr::Verdict(Verdict::Drop)])),
        )
        .unwrap_err();

    assert_eq!(error.errno(), Some(Errno::ENOENT));
    assert!(error.to_string().starts_with("rule of chain inet weft_test missing: "), "{error}");
    assert_eq!(socket.generation().unwrap(), before);
    assert!(!socket.has_chain(TABLE, "fine").unwrap(), "all or nothing");
    assert_eq!(socket.element(&numbers(), &Key::new().addr(IpAddr::from([0, 0, 0, 1]))).unwrap(), None);
    socket.commit(Transaction::new().chain(&TABLE.chain("fine"))).unwrap();
    assert!(socket.has_chain(TABLE, "fine").unwrap(), "the socket is still good");
}

#[test]
fn what_must_be_new_is_refused_when_it_exists() {
    let mut socket = with_numbers();
    let chain = TABLE.chain("once");
    socket.commit(Transaction::new().new_chain(&chain).elements(&numbers(), vec![number(1)])).unwrap();
    for transaction in [
        Transaction::new().new_chain(&chain),
        Transaction::new().new_set(&numbers()),
        Transaction::new().new_elements(&numbers(), vec![number(2), number(1)]),
    ] {
        assert_eq!(socket.commit(transaction).unwrap_err().errno(), Some(Errno::EEXIST));
    }
    let again =
        Transaction::new().chain(&chain).set(&numbers()).elements(&numbers(), vec![number(1)]).clone();
    socket.commit(&again).unwrap();
}

#[test]
fn a_transaction_may_depend_on_the_generation() {
    let mut socket = with_numbers();
    let seen = socket.generation().unwrap();
    let mut transaction = Transaction::new();
    transaction.only_if_generation(seen).elements(&numbers(), vec![number(1)]);
    socket.commit(&transaction).unwrap();

    let error = socket.commit(&transaction).unwrap_err();

    assert_eq!(error.errno(), Some(Errno::ERESTART));
    transaction.only_if_generation(socket.generation().unwrap());
    socket.commit(&transaction).unwrap();
}

#[test]
fn of_more_refusals_than_fit_the_first_is_told() {
    let mut socket = with_numbers();
    let missing = Set::new(TABLE, "missing", &[Type::Ipv4Addr]);
    let mut transaction = Transaction::new();
    for i in 0..20_000 {
        transaction.elements(&missing, vec![number(i)]);
    }
    let refused = socket.commit(&transaction).unwrap_err();
    assert!(matches!(&refused, Error::Refused { errno: Errno::ENOENT, .. }), "{refused}");
    assert!(
        socket.element(&numbers(), number(1).key()).unwrap().is_none(),
        "an old answer to a new question"
    );
    socket.commit(Transaction::new().elements(&numbers(), vec![number(1)])).unwrap();
}

#[test]
fn thousands_of_elements_fit_into_one_transaction() {
    let mut socket = with_numbers();
    let elements: Vec<_> = (1..=20_000).map(|i| number(i).comment("x".repeat(40))).collect();
    socket.commit(Transaction::new().elements(&numbers(), elements)).unwrap();
    let found = socket.element(&numbers(), &Key::new().addr(IpAddr::from(20_000u32.to_be_bytes()))).unwrap();
    assert_eq!(found.unwrap().comment, Some("x".repeat(40)));
}

#[test]
fn questions_about_nothing_have_no_answer() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    assert_eq!(socket.table(TABLE).unwrap(), None);
    assert!(!socket.has_chain(TABLE, "x").unwrap());
    assert_eq!(socket.rules(TABLE, "x").unwrap(), []);
    assert_eq!(socket.element(&numbers(), &addr("10.0.0.1")).unwrap(), None);
    socket.expire(&numbers(), &number(1)).unwrap();
    socket.commit(&Transaction::new()).unwrap();

    socket.commit(Transaction::new().table(TABLE, Some("here"))).unwrap();

    assert_eq!(socket.table(TABLE).unwrap(), Some(Some("here".into())));
    assert_eq!(socket.rules(TABLE, "x").unwrap(), []);
    assert_eq!(socket.element(&numbers(), &addr("10.0.0.1")).unwrap(), None);
    socket.commit(Transaction::new().delete_table(TABLE)).unwrap();
    assert_eq!(socket.table(TABLE).unwrap(), None);
}

#[test]
fn rules_are_listed_by_chain_and_deleted_by_handle() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let (chain, noise) = (TABLE.chain("chain"), TABLE.chain("noise"));
    let mut transaction = Transaction::new();
    transaction.table(TABLE, None).chain(&chain).chain(&noise);
    for i in 0..600 {
        transaction.rule(chain.rule([Expr::Counter]).comment(format!("rule {i}")));
        transaction.rule(noise.rule([Expr::Counter]).comment(format!("noise {i}")));
    }
    transaction.rule(chain.rule([Expr::Verdict(Verdict::Return)]));
    socket.commit(&transaction).unwrap();

    let rules = socket.rules(TABLE, "chain").unwrap();
    assert_eq!(rules.len(), 601, "one answer does not hold them all");
    assert_eq!(rules[599].comment.as_deref(), Some("rule 599"));
    assert_eq!(rules[600].comment, None);

    socket.commit(Transaction::new().delete_rule(TABLE, "chain", rules[599].handle)).unwrap();
    let left = socket.rules(TABLE, "chain").unwrap();
    assert_eq!(left.len(), 600);
    assert!(left.iter().all(|rule| rule.comment.as_deref() != Some("rule 599")));
    socket.commit(Transaction::new().flush_chain(TABLE, "chain").delete_chain(TABLE, "chain")).unwrap();
    assert!(!socket.has_chain(TABLE, "chain").unwrap());
}

#[test]
fn an_expired_element_is_gone_and_can_come_back_at_any_moment() {
    let mut socket = with_numbers();
    let key = |i: u32| Key::new().addr(IpAddr::from(i.to_be_bytes()));
    for pause in 0..12u64 {
        let i = u32::try_from(pause).unwrap();
        socket.commit(Transaction::new().elements(&numbers(), vec![number(i)])).unwrap();
        assert!(socket.element(&numbers(), &key(i)).unwrap().is_some_and(|found| found.expires.is_none()));

        socket.expire(&numbers(), &number(i)).unwrap();
        let found = socket.element(&numbers(), &key(i)).unwrap();
        assert!(found.is_none_or(|found| found.expires.is_some()));

        // Before, at and after the tick on which it runs out, adding it again must stick.
        thread::sleep(Duration::from_millis(pause));
        socket.commit(Transaction::new().elements(&numbers(), vec![number(i)])).unwrap();
    }
    thread::sleep(Duration::from_millis(50));
    for i in 0..12 {
        let found = socket.element(&numbers(), &key(i)).unwrap();
        assert!(found.is_some_and(|found| found.expires.is_none()), "{i} came back for good");
        socket.expire(&numbers(), &number(i)).unwrap();
    }
    let limit = Instant::now() + Duration::from_secs(5);
    while (0..12).any(|i| socket.element(&numbers(), &key(i)).unwrap().is_some()) {
        assert!(Instant::now() < limit, "expired elements run out");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn transactions_of_many_processes_do_not_mix() {
    drop(with_numbers());
    thread::scope(|scope| {
        for worker in 0..4u32 {
            scope.spawn(move || {
                let mut socket = Socket::open().unwrap();
                for i in 0..200 {
                    let element = number((worker << 16) | i);
                    socket.commit(Transaction::new().new_elements(&numbers(), vec![element])).unwrap();
                }
            });
        }
    });
    let mut socket = Socket::open().unwrap();
    for worker in 0..4u32 {
        let key = Key::new().addr(IpAddr::from(((worker << 16) | 199).to_be_bytes()));
        assert!(socket.element(&numbers(), &key).unwrap().is_some());
    }
}

#[test]
fn without_privileges_the_error_says_so() {
    // This very test again, as a process of nobody's.
    const AGAIN: &str = "WEFT_NFT_TEST_AS_NOBODY";
    if std::env::var_os(AGAIN).is_some() {
        let error = Socket::open().and_then(|mut socket| socket.generation()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EPERM));
        assert_eq!(error.hint(), Some("run as root or with CAP_NET_ADMIN"));
        assert!(matches!(error, Error::Refused { .. }));
        assert!(!is_usable());
        return;
    }
    isolate().unwrap();
    assert!(is_usable(), "root may");
    #[expect(clippy::disallowed_methods, reason = "only a process can give up its privileges")]
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_privileges_the_error_says_so"])
        .env(AGAIN, "1")
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) => assert!(status.success()),
        Err(cause) => weft_testkit::skipped(format_args!("a test binary that nobody may execute: {cause}")),
    }
}

#[test]
fn marks_are_set_seen_and_cleared() {
    isolate().unwrap();
    let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: -1, policy: Policy::Accept };
    let chain = TABLE.base_chain("marks", base);
    let mut seen = Vec::from(expr::is_marked(0x1000));
    seen.push(Expr::Verdict(Verdict::Accept));
    let mut transaction = Transaction::new();
    transaction
        .table(TABLE, None)
        .chain(&chain)
        .rule(chain.rule(expr::mark(0x1000)))
        .rule(chain.rule(seen))
        .rule(chain.rule(expr::unmark(0x1000)));
    Socket::open().unwrap().commit(&transaction).unwrap();
    let Some(listing) = nft("list chain inet weft_test marks") else { return };
    let rules: Vec<_> = listing.lines().filter(|line| line.starts_with("meta mark")).collect();
    assert_eq!(
        rules,
        [
            "meta mark set meta mark | 0x00001000",
            "meta mark & 0x00001000 != 0x00000000 accept",
            "meta mark set meta mark & 0xffffefff",
        ]
    );
}

#[test]
fn chains_at_a_hook_are_found_with_their_policy() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    assert_eq!(socket.hooked(Family::Inet, Hook::Forward).unwrap(), []);
    let at = |hook, policy| Base { kind: ChainKind::Filter, hook, priority: -5, policy };
    let forward = TABLE.base_chain("passing", at(Hook::Forward, Policy::Drop));
    let mut transaction = Transaction::new();
    transaction
        .table(TABLE, None)
        .chain(&forward)
        .chain(&TABLE.base_chain("coming", at(Hook::Input, Policy::Accept)))
        .chain(&TABLE.chain("plain"))
        .rule(forward.rule([Expr::Counter]).comment("of a test"));
    socket.commit(&transaction).unwrap();
    let found = socket.hooked(Family::Inet, Hook::Forward).unwrap();
    let [passing] = &found[..] else { panic!("{found:?}") };
    assert_eq!((passing.table.as_str(), passing.name.as_str()), ("weft_test", "passing"));
    assert_eq!((passing.priority, passing.policy), (-5, Policy::Drop));
    assert_eq!(socket.rules_of(passing).unwrap()[0].comment.as_deref(), Some("of a test"));
    assert_eq!(socket.hooked(Family::Ip, Hook::Forward).unwrap(), []);
    let policy = |socket: &mut Socket, name| socket.policy(Family::Inet, "weft_test", name).unwrap();
    assert_eq!(policy(&mut socket, "passing"), Some(Policy::Drop));
    assert_eq!(policy(&mut socket, "plain"), None);
    assert_eq!(policy(&mut socket, "missing"), None);
}

#[test]
fn a_rule_the_other_way_round_is_not_known() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let (set, chain) = (numbers(), TABLE.chain("c"));
    let rule = |found| {
        let source = Expr::Payload(Field::IP4_SOURCE, Reg(0));
        chain.rule([source, Expr::Lookup(set.name.clone(), Reg(0), found), Expr::Verdict(Verdict::Accept)])
    };
    let mut known = Known::default();
    known.add(Transaction::new().chain(&chain).rule(rule(Found::Match)));
    for (found, is_known) in [(Found::Match, true), (Found::NoMatch, false)] {
        let mut all = Transaction::new();
        socket.commit(all.table(TABLE, None).set(&set).chain(&chain).rule(rule(found))).unwrap();
        let rules = socket.rules(TABLE, "c").unwrap();
        assert_eq!(known.has_rule(TABLE.family, TABLE.name, "c", &rules[0]), is_known, "{rules:?}");
        socket.commit(Transaction::new().delete_table(TABLE)).unwrap();
    }
}
