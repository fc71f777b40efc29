//! `host-device`: a device of the host, lent to a container.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host, Lack};

const HOST_DEVICE: Subject = Subject { plugin: "host-device", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    host.lab.wire();
    Ok(())
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "host-device", "device": "up0"})
}

pub(crate) fn it_carries_traffic(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = HOST_DEVICE.addressed(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    host.plugin("host-device").json(&conf).add(&red).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1", "2001:db8:1::1"]);
    Ok(())
}

/// ADD and DEL of a device that is named in this way; its MAC address is 02:00:00:00:00:09.
fn found_by(host: &Host, keys: &Value) -> Done {
    prepare(host)?;
    host.lab.ip("link set up0 address 02:00:00:00:00:09");
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf.as_object_mut().unwrap().remove("device");
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    let call = host.plugin("host-device").json(&conf);
    let result = call.add(&red).expect_json();
    assert!(!host.lab.has_link("up0"), "the host still has it");
    assert_eq!(red.link("eth0")["address"], "02:00:00:00:00:09");
    assert_eq!(red.link("eth0")["ifalias"], "up0");
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:09");
    let call = call.prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    call.del(&red).expect_ok();
    assert!(host.lab.has_link("up0") && !red.has_link("eth0"));
    Ok(())
}

pub(crate) fn it_is_found_by_name(host: &Host) -> Done {
    found_by(host, &json!({"device": "up0"}))
}

pub(crate) fn it_is_found_by_its_mac(host: &Host) -> Done {
    found_by(host, &json!({"hwaddr": "02:00:00:00:00:09"}))
}

/// Makes folders that stand for a bus with one device, `ID`, whose link is `up0`.
fn bus(host: &Host, kind: &str, driver: &str, device: &str) {
    let id = device.split('/').next().unwrap_or_default();
    let lines = format!(
        "mount -t tmpfs none /sys/bus && cd /sys/bus && mkdir -p {kind}/devices/{device} {kind}/drivers/{driver} \
        && ln -s /sys/bus/{kind}/drivers/{driver} {kind}/devices/{id}/driver"
    );
    host.lab.sh(&lines).expect_ok();
}

pub(crate) fn it_is_found_by_its_place(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    // The folder lists every virtual link; only one is left.
    host.lab.sh("mount -t tmpfs none /sys/devices && mkdir -p /sys/devices/pci0/net/up0").expect_ok();
    let mut conf = conf("1.0.0");
    conf.as_object_mut().unwrap().remove("device");
    conf["kernelpath"] = json!("/sys/devices/pci0");
    host.plugin("host-device").json(&conf).add(&red).expect_ok();
    assert!(!host.lab.has_link("up0") && red.has_link("eth0"));
    host.plugin("host-device").json(&conf).del(&red).expect_ok();
    assert!(host.lab.has_link("up0"));
    Ok(())
}

pub(crate) fn it_is_found_on_the_pci_bus(host: &Host) -> Done {
    bus(host, "pci", "virtio-pci", "0000:00:1f.6/net/up0");
    found_by(host, &json!({"pciBusID": "0000:00:1f.6"}))
}

pub(crate) fn it_is_found_behind_virtio(host: &Host) -> Done {
    bus(host, "pci", "virtio-pci", "0000:00:1f.6/virtio3/net/up0");
    found_by(host, &json!({"pciBusID": "0000:00:1f.6"}))
}

pub(crate) fn the_runtimes_device_is_found_on_the_pci_bus(host: &Host) -> Done {
    bus(host, "pci", "virtio-pci", "0000:00:1f.6/net/up0");
    found_by(host, &json!({"pciBusID": "0000:00:00.0", "runtimeConfig": {"deviceID": "0000:00:1f.6"}}))
}

pub(crate) fn the_runtimes_device_is_found_on_the_auxiliary_bus(host: &Host) -> Done {
    bus(host, "auxiliary", "mlx5_core.sf", "mlx5_core.sf.4/net/up0");
    found_by(host, &json!({"runtimeConfig": {"deviceID": "mlx5_core.sf.4"}}))
}

pub(crate) fn an_unknown_runtimes_device_is_refused(host: &Host) -> Done {
    let mut conf = HOST_DEVICE.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf.as_object_mut().unwrap().remove("device");
    conf["runtimeConfig"] = json!({"deviceID": "0000:99:99.9"});
    attached::refused(
        host,
        &HOST_DEVICE,
        &conf,
        "runtime config DeviceID 0000:99:99.9 not found or unsupported",
    )
}

pub(crate) fn what_a_program_drives_is_left_to_it(host: &Host) -> Done {
    bus(host, "pci", "vfio-pci", "0000:00:1f.6");
    let red = host.lab.container("red");
    let mut conf = HOST_DEVICE.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf.as_object_mut().unwrap().remove("device");
    conf["pciBusID"] = json!("0000:00:1f.6");
    let call = host.plugin("host-device").json(&conf);
    let result = call.add(&red).expect_json();
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!(result["interfaces"][0]["sandbox"], json!(red.netns()));
    assert!(result["interfaces"][0]["mac"].is_null() || result["interfaces"][0]["mac"] == "", "{result}");
    assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
    assert!(!red.has_link("eth0"));
    let call = call.prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    call.del(&red).expect_ok();
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn a_device_must_be_named(host: &Host) -> Done {
    let mut conf = HOST_DEVICE.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf.as_object_mut().unwrap().remove("device");
    let text = r#"specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\""#;
    attached::refused(host, &HOST_DEVICE, &conf, text)
}

pub(crate) fn a_place_outside_of_the_devices_is_refused(host: &Host) -> Done {
    let mut conf = HOST_DEVICE.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf.as_object_mut().unwrap().remove("device");
    conf["kernelpath"] = json!("/tmp");
    attached::refused(host, &HOST_DEVICE, &conf, "must be absolute and begin with /sys/devices/")
}

pub(crate) fn a_missing_device_is_refused(host: &Host) -> Done {
    let mut conf = HOST_DEVICE.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["device"] = json!("nobody0");
    attached::refused(host, &HOST_DEVICE, &conf, "failed to find host device")
}

pub(crate) fn when_the_name_is_taken_in_the_container_the_device_stays(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    red.ip("link add eth0 type veth peer name other0");
    let refused = host.plugin("host-device").json(&conf("1.0.0")).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(host.lab.has_link("up0"), "the device is not back: {refused}");
    Ok(())
}

pub(crate) fn when_its_name_is_taken_in_the_host_del_fails_and_can_be_tried_again(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let call = host.plugin("host-device").json(&conf("1.0.0"));
    call.add(&red).expect_ok();
    host.lab.ip("link add up0 type veth peer name other0");
    assert_ne!(call.del(&red).code, 0);
    assert!(red.has_link("eth0"), "the device is neither here nor there");
    assert!(!host.lab.has_link("eth0"));
    host.lab.ip("link delete up0");
    call.del(&red).expect_ok();
    assert!(host.lab.has_link("up0") && !red.has_link("eth0"));
    Ok(())
}

pub(crate) fn the_name_it_had_may_be_taken_in_the_container(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    red.ip("link add up0 type veth peer name other0");
    let call = host.plugin("host-device").json(&conf("1.0.0"));
    call.add(&red).expect_ok();
    assert!(red.has_link("eth0") && red.has_link("up0"));
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0") && red.has_link("up0") && host.lab.has_link("up0"));
    Ok(())
}

pub(crate) fn the_name_in_the_container_may_be_taken_in_the_host(host: &Host) -> Done {
    prepare(host)?;
    host.lab.ip("link add eth0 type veth peer name other0");
    let red = host.lab.container("red");
    let call = host.plugin("host-device").json(&conf("1.0.0"));
    call.add(&red).expect_ok();
    assert!(red.has_link("eth0"));
    call.del(&red).expect_ok();
    assert!(host.lab.has_link("eth0") && host.lab.has_link("up0"));
    Ok(())
}

attached_section! { host_device: HOST_DEVICE
    [every layer_2]
    []
    it_carries_traffic
    it_is_found_by_name
    it_is_found_by_its_mac
    it_is_found_by_its_place
    it_is_found_on_the_pci_bus
    it_is_found_behind_virtio
    the_runtimes_device_is_found_on_the_pci_bus
    the_runtimes_device_is_found_on_the_auxiliary_bus
    an_unknown_runtimes_device_is_refused
    what_a_program_drives_is_left_to_it
    a_device_must_be_named
    a_place_outside_of_the_devices_is_refused
    a_missing_device_is_refused
    when_the_name_is_taken_in_the_container_the_device_stays
    when_its_name_is_taken_in_the_host_del_fails_and_can_be_tried_again
    the_name_it_had_may_be_taken_in_the_container
    the_name_in_the_container_may_be_taken_in_the_host
}
