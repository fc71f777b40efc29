//! `--kernel debian`: Debian's stock kernel, for the tests of features that the machine's own may lack, and for what such plugins cost.
//!
//! A virtual machine whose root is this file system, read by 9p with a layer in memory over it: what a test does
//! there, it does there alone. It runs the binaries that are built here. Where the machine has no KVM the
//! processor is emulated, so only what needs the kernel's features is worth it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, entries, have, is_root, output, program, run, top, write};
use crate::{peers, setup};

/// The test binaries that have such tests, by what cargo calls them.
const BINARIES: [&str; 3] = ["conformance", "scenarios", "vlan"];
/// What the names of the tests have in them that are run when nobody names any.
const FEATURES: [&str; 11] = [
    "vlan",
    "trunk",
    "bridge_without_filtering",
    "dummy",
    "vrf",
    "kernels_wireguard",
    "a_full_packet_is_encrypted_whole_over_ipv4",
    "an_encrypted_network_is_entered_and_left_by_the_mesh_alone",
    "a_host_that_boots_again_is_who_it_was_to_the_mesh",
    "fast_path",
    "bridge_keeps_its_containers_apart",
];
/// What they do not: what every kernel has, and what is about a kernel without.
const ELSEWHERE: [&str; 2] = ["macvlan", "a_kernel_without"];
/// Tests about a kernel without modules that this one has, and the modules: they are run before those are
/// loaded, and in this order none has what a later one is without.
const WITHOUT: [(&[&str], &[&str]); 4] = [
    (
        &["a_kernel_without_macvlan", "a_kernel_without_buckets", "a_kernel_without_ifb"],
        &["macvlan", "sch_tbf", "ifb"],
    ),
    (&["a_kernel_without_ingress"], &["sch_ingress"]),
    (&["a_kernel_without_a_classifier", "a_kernel_without_u32"], &["cls_bpf", "cls_u32"]),
    (&["a_kernel_without_mirred"], &["act_mirred"]),
];
/// What the first file system needs before it can read the real one.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// How long all of it may take, for `timeout(1)`.
const LIMIT: &str = "40m";
/// How long a guest has for its first word, before KVM is given up: it may be there and not work.
const PATIENCE: &str = "15";

/// What makes an emulated kernel faster and changes nothing that a test is about: nobody attacks it, so system calls need
/// not flush what the emulator has learnt, and whoever waits for all CPUs has them told at once.
const SWIFT: &str = "no_timer_check mitigations=off audit=0 nowatchdog rcupdate.rcu_expedited=1";

/// A kernel with its modules.
struct Kernel {
    image: PathBuf,
    /// The folder that has its modules, and its version.
    modules: PathBuf,
    version: String,
}

/// A run that was prepared.
pub(crate) struct Guest {
    pub(crate) command: Command,
    /// The folder that the guest writes to.
    pub(crate) shared: PathBuf,
}

/// Returns what this machine lacks for a guest, after an attempt to install it.
pub(crate) fn lacks() -> Option<String> {
    if !is_root() {
        return Some("root, who alone may read the whole file system".into());
    }
    if std::env::consts::ARCH != "x86_64" {
        return Some("a processor of kind x86_64".into());
    }
    let there = have("qemu-system-x86_64") && have("depmod");
    if let Err(error) = if there { Ok(()) } else { setup::install(&["qemu-system-x86", "kmod"]) } {
        return Some(format!("qemu: {error:#}"));
    }
    kernel().err().map(|error| format!("Debian's kernel: {error:#}"))
}

/// Returns what runs the tests whose names have one of these words, as lines for the shell. Without words, those that need this kernel.
pub(crate) fn tests(filters: &[&String]) -> Result<Vec<String>> {
    let binaries = binaries()?;
    let features = FEATURES.iter().map(ToString::to_string);
    let without = ELSEWHERE.iter().flat_map(|word| ["--skip".to_string(), word.to_string()]);
    let words: Vec<String> = match filters {
        [] => features.chain(without).collect(),
        filters => filters.iter().map(ToString::to_string).collect(),
    };
    let words: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', ""))).collect();
    let each = |words: &str| -> Vec<String> {
        binaries.iter().map(|binary| format!("{} {words}", binary.display())).collect()
    };
    let mut lines = Vec::new();
    for (tests, modules) in WITHOUT.iter().filter(|_| filters.is_empty()) {
        lines.push("mkdir -p /etc/modprobe.d; : > /etc/modprobe.d/without.conf".into());
        for module in *modules {
            lines.push(format!("echo 'install {module} /bin/false' >> /etc/modprobe.d/without.conf"));
        }
        lines.extend(each(&tests.join(" ")));
        lines.push("rm /etc/modprobe.d/without.conf".into());
    }
    lines.extend(each(&words.join(" ")));
    Ok(lines)
}

/// Prepares a machine that runs these lines, and says in the file `rc` whether all went well.
pub(crate) fn prepare(lines: &[String]) -> Result<Guest> {
    let kernel = kernel()?;
    let shared = top().join("target/kernel/shared");
    std::fs::create_dir_all(&shared).context("cannot create target/kernel")?;
    for old in entries(&shared)? {
        std::fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    write(&shared.join("run"), script(&kernel, &shared, lines))?;
    let archive = shared.join("initramfs");
    initramfs(&kernel, &shared, &archive)?;
    let accelerator = if Path::new("/dev/kvm").exists() && starts(&kernel, &archive, "kvm", &shared) {
        "kvm"
    } else {
        println!("this machine has no KVM that works: the processor is emulated, which takes its time");
        "tcg"
    };
    Ok(Guest { command: machine(&kernel, &archive, accelerator, &shared, LIMIT, "run"), shared })
}

/// Returns the kernel that is installed, or unpacks Debian's.
fn kernel() -> Result<Kernel> {
    let depends = || output(program("apt-cache").args(["depends", "linux-image-amd64"]));
    let name = depends().or_else(|_| setup::look().and_then(|()| depends()))?;
    let name = name.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let version = name.context("the archive has no linux-image-amd64")?.to_string();
    let found = |root: &Path| {
        let (image, modules) =
            (root.join(format!("boot/vmlinuz-{version}")), root.join("lib/modules").join(&version));
        (image.exists() && modules.join("kernel").exists()).then(|| Kernel {
            image,
            modules,
            version: version.clone(),
        })
    };
    let folder = top().join("target/kernel");
    if let Some(kernel) = found(Path::new("/")).or_else(|| found(&folder)) {
        return with_dependencies(kernel);
    }
    println!("unpacking linux-image-{version}");
    std::fs::create_dir_all(&folder).context("cannot create target/kernel")?;
    let package = format!("linux-image-{version}");
    let download = || {
        let mut download = program("apt-get");
        download.current_dir(&folder).args(["download", "-qq", "-o", "APT::Sandbox::User=root", &package]);
        output(&mut download)
    };
    download().or_else(|_| setup::look().and_then(|()| download()))?;
    for archive in entries(&folder)?.iter().filter(|path| path.extension().is_some_and(|end| end == "deb")) {
        output(program("dpkg-deb").arg("--extract").arg(archive).arg(&folder))?;
        std::fs::remove_file(archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    }
    with_dependencies(found(&folder).with_context(|| format!("{package} has no kernel"))?)
}

/// Lets depmod(8) say which module needs which, as it does where a kernel is installed.
fn with_dependencies(kernel: Kernel) -> Result<Kernel> {
    if !kernel.modules.join("modules.dep").exists() {
        let root = kernel.modules.ancestors().nth(3).unwrap_or(Path::new("/"));
        output(program("depmod").arg("-b").arg(root).arg(&kernel.version))?;
    }
    Ok(kernel)
}

/// Returns the test binaries, built as `cargo xtask test` builds them: for the whole workspace, or they would be built
/// once more.
fn binaries() -> Result<Vec<PathBuf>> {
    let build = || {
        let mut build = cargo();
        build.args(["test", "--workspace", "--no-run"]);
        for name in BINARIES {
            build.args(["--test", name]);
        }
        build
    };
    run(build().arg("--quiet"))?;
    let mut command = build();
    let said = command.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    //   Executable tests/plugin.rs (target/debug/deps/plugin-0123456789abcdef)
    let listed = said.lines().filter(|line| line.trim_start().starts_with("Executable"));
    let found: Vec<_> =
        listed.filter_map(|line| Some(top().join(line.rsplit_once('(')?.1.trim_end_matches(')')))).collect();
    if found.is_empty() { bail!("cargo names no test binaries: {said}") } else { Ok(found) }
}

/// What the guest does once it has its root.
fn script(kernel: &Kernel, shared: &Path, lines: &[String]) -> String {
    let (modules, shared, top) = (kernel.modules.display(), shared.display(), top());
    let mut script = format!(
        r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/lock /run/netns
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -e /lib/modules/{version}/modules.dep ] || {{ mkdir -p /lib/modules/{version}; mount --bind {modules} /lib/modules/{version}; }}
ip link set lo up
for module in br_netfilter tun; do modprobe $module; done
ulimit -n 65536
export WEFT_SKIPS={shared}/skips RUST_TEST_THREADS=4
cd {top}
rc=0
"#,
        version = kernel.version,
        top = top.display(),
    );
    for line in lines {
        script += &format!("{line} || rc=1\n");
    }
    script + &format!("sync\necho $rc > {shared}/rc\n")
}

/// The first program: it reads the real root, and puts a layer over it that nobody keeps.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /lower /layer /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
options=trans=virtio,version=9p2000.L,msize=512000
/bin/busybox mount -t 9p -o $options,ro,cache=loose host /lower
/bin/busybox mount -t tmpfs -o size=70% layer /layer
/bin/busybox mkdir -p /layer/upper /layer/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root
/bin/busybox mount -t 9p -o $options shared /root/SHARED
# The kernel starts the program that loads modules where it was started itself: here.
echo /bin/load > /proc/sys/kernel/modprobe
for folder in proc sys dev; do /bin/busybox mount --move /$folder /root/$folder; done
echo up > /root/SHARED/up
case "$(/bin/busybox cat /root/proc/cmdline)" in
    *weft=probe*) ;;
    *) /bin/busybox chroot /root /bin/sh /SHARED/run ;;
esac
echo o > /root/proc/sysrq-trigger
/bin/busybox sleep 10
"#;

/// What the kernel calls for a module that something asks for.
const LOAD: &str = "#!/bin/busybox sh\nexec /bin/busybox chroot /root /sbin/modprobe \"$@\"\n";

/// Writes the first file system: busybox, its script, and the modules that it needs.
fn initramfs(kernel: &Kernel, shared: &Path, archive: &Path) -> Result<()> {
    let below = shared.to_string_lossy().trim_start_matches('/').to_string();
    let mut cpio = Cpio::default();
    for folder in ["bin", "modules"] {
        cpio.add(folder, 0o040_755, &[]);
    }
    let busybox = std::fs::read(peers::busybox()?).context("cannot read busybox")?;
    cpio.add("bin/busybox", 0o100_755, &busybox);
    cpio.add("bin/load", 0o100_755, LOAD.as_bytes());
    cpio.add("init", 0o100_755, INIT.replace("SHARED", &below).as_bytes());
    let table = kernel.modules.join("modules.dep");
    let table =
        std::fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let line =
            table.lines().find(|line| line.split(':').next().is_some_and(|path| is_module(path, module)));
        // kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko
        let line = line.with_context(|| format!("this kernel has no module {module}"))?;
        let (path, needs) = line.split_once(':').unwrap_or((line, ""));
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|there| there == path) {
                order.push(path.to_string());
            }
        }
    }
    let mut names = String::new();
    for path in &order {
        let name = path.rsplit('/').next().unwrap_or(path);
        let bytes =
            std::fs::read(kernel.modules.join(path)).with_context(|| format!("cannot read {path}"))?;
        cpio.add(&format!("modules/{name}"), 0o100_644, &bytes);
        names += &format!("{name}\n");
    }
    cpio.add("modules/order", 0o100_644, names.as_bytes());
    cpio.finish(archive)
}

/// Whether a path of `modules.dep` is a module's; in its file name a dash counts as a low line.
fn is_module(path: &str, module: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".ko").is_some_and(|name| name.replace('-', "_") == module)
}

/// Says whether a guest comes up by an accelerator.
fn starts(kernel: &Kernel, archive: &Path, accelerator: &str, shared: &Path) -> bool {
    let up = shared.join("up");
    std::fs::remove_file(&up).ok();
    let mut command = machine(kernel, archive, accelerator, shared, PATIENCE, "probe");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().is_ok() && up.exists()
}

fn machine(
    kernel: &Kernel,
    archive: &Path,
    accelerator: &str,
    shared: &Path,
    limit: &str,
    what: &str,
) -> Command {
    let share = |path: &Path, tag: &str, more: &str| {
        format!("local,path={},mount_tag={tag},security_model=none,multidevs=remap{more}", path.display())
    };
    let mut command = program("timeout");
    command.args([limit, "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"]);
    command.args(["-serial", "stdio", "-monitor", "none", "-m", "3G", "-smp", "2"]);
    match accelerator {
        "kvm" => command.args(["-accel", "kvm", "-cpu", "host"]),
        _ => command.args(["-accel", "tcg,thread=multi", "-cpu", "max,-la57"]),
    };
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(archive);
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 {SWIFT} weft={what}")]);
    command.args(["-virtfs", &share(Path::new("/"), "host", ",readonly=on")]);
    command.args(["-virtfs", &share(shared, "shared", "")]);
    command.stdin(std::process::Stdio::null());
    command
}

/// An archive as the kernel unpacks it first (Documentation/driver-api/early-userspace/buffer-format.rst, `newc`).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    files: usize,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        let (inode, links) = (self.files, if mode & 0o040_000 == 0 { 1 } else { 2 });
        let length = name.len() + 1;
        // Magic, inode, mode, two ids, links, time, size, two devices of two numbers, the name's length, no checksum.
        let head = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{length:08x}{:08x}",
            0,
            0,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            0
        );
        self.bytes.extend(head.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, path: &Path) -> Result<()> {
        self.add("TRAILER!!!", 0, &[]);
        let written = File::create(path).and_then(|mut file| file.write_all(&self.bytes));
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cpio, is_module};

    #[test]
    fn a_module_is_known_by_its_file() {
        assert!(is_module("kernel/net/9p/9pnet_virtio.ko", "9pnet_virtio"));
        assert!(is_module("kernel/x/virtio-pci.ko", "virtio_pci"));
        assert!(!is_module("kernel/net/9p/9pnet.ko", "9p"));
    }

    #[test]
    fn an_archive_is_one_of_blocks_of_four() {
        let mut cpio = Cpio::default();
        cpio.add("init", 0o100_755, b"hello");
        assert_eq!(cpio.bytes.len() % 4, 0);
        assert_eq!(&cpio.bytes[..14], b"07070100000001");
        assert_eq!(&cpio.bytes[110..115], b"init\0");
        assert_eq!(&cpio.bytes[116..121], b"hello");
    }
}
