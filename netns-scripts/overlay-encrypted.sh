#!/usr/bin/env bash
# Two hosts on one network between them, a tunnel of ours on each, and VXLAN inside it: what an encrypted network rides in.
# Hosts are namespaces, each with files of its own; nothing runs but the tunnels.
#
#   sudo netns-scripts/overlay-encrypted.sh          build it and leave it up
#   sudo netns-scripts/overlay-encrypted.sh --down   take it down
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../target/stage/bin:$PATH
files=/run/weft-encrypted

down() {
  for n in 1 2; do
    # The tunnel ends with the device, and both of its processes are told to.
    for pid in $(ip netns pids "h$n" 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
    ip netns delete "h$n" 2>/dev/null || true
  done
  rm -rf "$files"
}

# 32 random bytes, in base64.
secret() { head -c 32 /dev/urandom | base64; }

command -v weftd >/dev/null || { echo "weftd is not built yet: cargo xtask stage" >&2; exit 1; }
command -v wg >/dev/null || { echo "wg is missing: apt-get install wireguard-tools" >&2; exit 1; }
case ${1:-} in
  --down) down; exit ;;
  '') ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac

umask 077
shared=$(secret)
for n in 1 2; do
  ip netns add "h$n"
  mkdir -p "$files/h$n/var/lib/weft/overlay/keys"
  wg genkey >"$files/h$n/var/lib/weft/overlay/keys/wg-a.key"
done
ip link add u0 netns h1 type veth peer name u0 netns h2
for n in 1 2; do
  ip -n "h$n" link set lo up
  ip -n "h$n" address add "192.0.2.$n/24" dev u0
  ip -n "h$n" link set u0 up
done
for n in 1 2; do
  other=$((3 - n))
  public=$(wg pubkey <"$files/h$other/var/lib/weft/overlay/keys/wg-a.key")
  cat >"$files/h$n/var/lib/weft/overlay/wg-a.json" <<JSON
{ "schema": 1,
  "device": { "port": 51820, "mtu": 1440, "address": "fd07::$n", "prefix": "fd07::/48", "vxlan": 8473 },
  "peers": [{ "public_key": "$public", "preshared_key": "$shared",
              "endpoint": "192.0.2.$other:51820", "address": "fd07::$other" }] }
JSON
  ip netns exec "h$n" weftd --root "$files/h$n" tunnel --slot A --detach
  ip -n "h$n" route add "fd07::$other" dev weftwga proto 202
  ip -n "h$n" link add secure0 mtu 1370 type vxlan id 4096 local "fd07::$n" remote "fd07::$other" dstport 8473 \
    nolearning udp6zerocsumtx udp6zerocsumrx
  ip -n "h$n" address add "10.92.0.$n/24" dev secure0
  ip -n "h$n" link set secure0 up
done

cat <<TEXT
h1 and h2 are at 192.0.2.1 and 192.0.2.2, and inside the tunnel at fd07::1 and fd07::2. Look at:

  ip netns exec h1 ping -c1 10.92.0.2                 VXLAN inside WireGuard inside UDP
  ip netns exec h1 ip -6 route                        one route a host; without it: unreachable, nothing else
  ip netns exec h1 ip link set weftwga down           and then the ping again: nothing leaves by another way
  ip netns exec h2 tcpdump -ni u0 udp port 51820      what somebody in between sees
  ip netns pids h1                                    the process that holds the device, and the one that works:
                                                      kill -9 the second and go on pinging
  $0 --down              take it all down
TEXT
