#!/usr/bin/env bash
# Two hosts that have joined a cluster, with an etcd between them, and a container of each on one encrypted overlay network. Hosts
# are namespaces, each with files and an agent of its own.
#
#   sudo netns-scripts/overlay-encrypted.sh          build it and leave it up
#   sudo netns-scripts/overlay-encrypted.sh --down   take it down
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../target/stage/bin:$PATH
files=/run/weft-encrypted
hosts=(1 2)

on() {
  local host=$1
  shift
  WEFT_ROOT=$files/h$host ip netns exec "h$host" "$@"
}

# Starts something that stays: what to call its log, and what.
begin() {
  local log=$files/$1.log
  shift
  setsid -f "$@" >"$log" 2>&1 </dev/null
}

# Waits for what comes by itself.
await() {
  local left=600
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || { echo "not within a minute: $*; see $files/*.log" >&2; exit 1; }
    sleep 0.1
  done
}

# The processes that carry a host's packets, where its kernel has no WireGuard.
tunnels() {
  local pid
  for pid in $(ip netns pids "$1"); do
    if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qx tunnel; then echo "$pid"; fi
  done
}

end() {
  local pids
  for _ in {1..100}; do
    pids=$(ip netns pids "$1" 2>/dev/null) || return 0
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086 # one word each
    kill -9 $pids 2>/dev/null || true
    sleep 0.05
  done
}

down() {
  for n in "${hosts[@]}"; do
    on "$n" weft network disconnect -f blue "c$n" 2>/dev/null || true
    ip netns delete "c$n" 2>/dev/null || true
  done
  for name in h1 h2 ctl; do
    end "$name"
    ip netns delete "$name" 2>/dev/null || true
  done
  ip link delete ul 2>/dev/null || true
  rm -rf "$files"
}

# A certificate: of whom, and what it is valid for.
make_cert() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$2" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile "$1.ext" -out "$1.crt"
}

certificates() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj /CN=weft-ca -keyout ca.key -out ca.crt
  make_cert etcd IP:192.0.2.250
  for n in "${hosts[@]}"; do make_cert "h$n" "DNS:h$n"; done
}

need() {
  command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }
}

need weft 'cargo xtask stage'
need weftd 'cargo xtask stage'
need etcd 'apt-get install etcd-server'
need openssl 'apt-get install openssl'
case ${1:-} in
  --down) down; exit ;;
  '') ;;
  *) sed -n '2,7p' "$0"; exit 2 ;;
esac

umask 077
mkdir -p "$files/tls"
(cd "$files/tls" && certificates 2>openssl.log)
head -c 32 /dev/urandom | base64 >"$files/tls/secret"

ip link add ul type bridge mcast_snooping 0
ip link set ul up
for name in h1 h2 ctl; do
  case $name in ctl) own=192.0.2.250 ;; *) own=192.0.2.${name#h} ;; esac
  ip netns add "$name"
  ip -n "$name" link set lo up
  ip link add "v-$name" type veth peer name u0 netns "$name"
  ip link set "v-$name" master ul up
  ip -n "$name" address add "$own/24" dev u0
  ip -n "$name" link set u0 up
done

url=https://192.0.2.250:2379
begin etcd ip netns exec ctl etcd --data-dir "$files/etcd" \
  --listen-client-urls "$url" --advertise-client-urls "$url" --listen-peer-urls http://127.0.0.1:2380 \
  --cert-file "$files/tls/etcd.crt" --key-file "$files/tls/etcd.key" \
  --client-cert-auth --trusted-ca-file "$files/tls/ca.crt"
await ip netns exec ctl bash -c ': </dev/tcp/192.0.2.250/2379'
for n in "${hosts[@]}"; do
  mkdir -p "$files/h$n"
  begin "h$n" env WEFT_ROOT="$files/h$n" ip netns exec "h$n" weftd agent
  await test -S "$files/h$n/run/weft/overlay/agent.sock"
  on "$n" weft overlay join --etcd "$url" --name "h$n" --secret "$files/tls/secret" \
    --ca "$files/tls/ca.crt" --cert "$files/tls/h$n.crt" --key "$files/tls/h$n.key" >/dev/null
done
on 1 weft network create -d overlay --subnet 10.92.0.0/16 -o encrypted blue >/dev/null
for n in "${hosts[@]}"; do
  await on "$n" weft network exists blue
  ip netns add "c$n"
  on "$n" weft network connect blue "c$n"
done
there=$(ip -n c2 -4 -o address show dev eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')
await ip netns exec c1 ping -c1 -W1 "$there"
# Not before: the agent starts them when a network asks for them.
carriers=$(tunnels h1 | xargs)

cat <<TEXT
c1 is on h1, c2 on h2, at $there. Look at:

  ip netns exec c1 ping -c1 $there                  VXLAN inside WireGuard inside UDP
  tcpdump -ni ul udp port 51820                        what somebody in between sees of it
  ip netns exec h1 ip -6 route show proto 202          one route a host, and unreachable whoever has none
  ip netns exec h1 nft list table inet weft_tunnels    the secure port is taken from the mesh alone
  WEFT_ROOT=$files/h1 ip netns exec h1 weft overlay diag $there
  ip netns exec h1 ip link delete weftwga              break it: the agent of h1 makes it anew
${carriers:+  kill -9 $carriers                                  kill who carries the packets of h1, and go on pinging
}  WEFT_ROOT=$files/h1 ip netns exec h1 weft overlay rotate
                                                       other keys, and no packet is lost
  $0 --down              take it all down
TEXT
