use super::*;

/// What a table would have after these lines, as far as these tests need it.
fn table(lines: &[String]) -> Rules {
    let mut text = String::from(":FORWARD ACCEPT [0:0]\n");
    for line in lines {
        text.push_str(&line.replacen("-I FORWARD 1 ", "-A FORWARD ", 1).replacen("-I ", "-A ", 1));
        text.push('\n');
    }
    Rules::parse(&text.replace(" 1 -", " -"))
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ingress(bridge: &str, closed: bool) -> Ingress {
    Ingress { bridge: bridge.parse().unwrap(), closed }
}

#[test]
fn a_first_container_brings_upstreams_chains() {
    let lines = admission(&Rules::default(), ADMIN_CHAIN, &[addr("10.0.0.2")]);
    assert_eq!(
        lines,
        [
            ":CNI-FORWARD - [0:0]",
            ":CNI-ADMIN - [0:0]",
            r#"-I FORWARD 1 -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD"#,
            r#"-I CNI-FORWARD 1 -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN"#,
            "-A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A CNI-FORWARD -s 10.0.0.2/32 -j ACCEPT",
        ]
    );
}

#[test]
fn what_is_there_is_not_written_again() {
    let all = admission(&Rules::default(), "MY-ADMIN", &[addr("fd00::2")]);
    assert!(admission(&table(&all), "MY-ADMIN", &[addr("fd00::2")]).is_empty());
    let more = admission(&table(&all), "MY-ADMIN", &[addr("fd00::2"), addr("fd00::3")]);
    assert_eq!(more.len(), 2, "{more:?}");
    assert!(more.iter().all(|rule| rule.contains("fd00::3/128")), "{more:?}");
}

#[test]
fn removal_takes_every_copy_and_no_other() {
    let [one, two] = [addr("10.0.0.2"), addr("10.0.0.20")];
    let mut lines = admission(&Rules::default(), ADMIN_CHAIN, &[one, two]);
    lines.push(accepting(one)[1].clone());
    let gone = removal(&table(&lines), &[one]);
    assert_eq!(gone.len(), 3, "{gone:?}");
    assert!(gone.iter().all(|line| line.starts_with("-D CNI-FORWARD ") && line.contains("10.0.0.2/32")));
}

#[test]
fn a_policy_has_upstreams_rules_in_upstreams_order() {
    assert_eq!(
        policy(&Rules::default(), &ingress("br0", true)),
        [
            ":CNI-ISOLATION-STAGE-1 - [0:0]",
            r#"-A CNI-ISOLATION-STAGE-1 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN"#,
            ":CNI-ISOLATION-STAGE-2 - [0:0]",
            r#"-A CNI-ISOLATION-STAGE-2 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN"#,
            r#"-I FORWARD 1 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1"#,
            r#"-I CNI-ISOLATION-STAGE-2 1 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j DROP"#,
            r#"-I CNI-ISOLATION-STAGE-1 1 -i br0 ! -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j CNI-ISOLATION-STAGE-2"#,
            r#"-I CNI-ISOLATION-STAGE-1 1 -i br0 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j DROP"#,
        ]
    );
}

#[test]
fn a_changed_policy_replaces_the_old_one() {
    let there = table(&policy(&Rules::default(), &ingress("br0", true)));
    assert!(policy(&there, &ingress("br0", true)).is_empty());
    let changed = policy(&there, &ingress("br0", false));
    assert_eq!(changed.iter().filter(|line| line.starts_with("-D ")).count(), 3, "{changed:?}");
    assert_eq!(changed.iter().filter(|line| line.starts_with("-I ")).count(), 2, "{changed:?}");
}

#[test]
fn the_stages_go_with_the_last_bridge() {
    let mut lines = policy(&Rules::default(), &ingress("br0", false));
    lines.extend(policy(&table(&lines), &ingress("br1", true)));
    let there = table(&lines);
    let one = retirement(&there, &["br0".parse().unwrap()]);
    assert_eq!(one.len(), 2, "{one:?}");
    let both = retirement(&there, &["br0".parse().unwrap(), "br1".parse().unwrap()]);
    assert_eq!(both.last().map(String::as_str), Some("-X CNI-ISOLATION-STAGE-2"), "{both:?}");
    assert!(both.iter().any(|line| line.starts_with("-D FORWARD ")), "{both:?}");
    assert!(retirement(&there, &["br9".parse().unwrap()]).is_empty());
}

#[test]
fn acceptance_never_comes_before_a_policy() {
    let there = table(&policy(&Rules::default(), &ingress("br0", false)));
    let lines = admission(&there, ADMIN_CHAIN, &[addr("10.0.0.2")]);
    let at =
        |text: &str| lines.iter().position(|line| line.starts_with("-I FORWARD 1 ") && line.ends_with(text));
    assert!(at("-j CNI-FORWARD") < at("-j CNI-ISOLATION-STAGE-1"), "{lines:?}");
}
