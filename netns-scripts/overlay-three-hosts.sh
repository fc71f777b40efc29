#!/usr/bin/env bash
# Three hosts on one network between them, and a container of each on one overlay. Hosts are namespaces, each with
# files of its own; they know each other from files, so nothing runs.
#
#   sudo netns-scripts/overlay-three-hosts.sh          build it and leave it up
#   sudo netns-scripts/overlay-three-hosts.sh --down   take it down
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../target/stage/bin:$PATH
files=/run/weft-three-hosts
hosts=(1 2 3)

on() {
  local host=$1
  shift
  WEFT_ROOT=$files/h$host ip netns exec "h$host" "$@"
}

down() {
  for n in "${hosts[@]}"; do
    on "$n" weft network disconnect -f blue "c$n" 2>/dev/null || true
    ip netns delete "c$n" 2>/dev/null || true
    ip netns delete "h$n" 2>/dev/null || true
  done
  ip link delete ul 2>/dev/null || true
  rm -rf "$files"
}

# What host n is, as itself and as everybody's peer.
describe() {
  printf 'name = "h%s"\nunderlay = ["192.0.2.%s"]\n\n' "$1" "$1"
  printf '[[block]]\nnetwork = "blue"\ncidr = "10.1.0.%s/26"\n' $(($1 * 64 - 64))
}

command -v weft >/dev/null || { echo "weft is not built yet: cargo xtask stage" >&2; exit 1; }
case ${1:-} in
  --down) down; exit ;;
  '') ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac

ip link add ul type bridge mcast_snooping 0
ip link set ul up
for n in "${hosts[@]}"; do
  ip netns add "h$n"
  ip -n "h$n" link set lo up
  ip link add "v-h$n" type veth peer name u0 netns "h$n"
  ip link set "v-h$n" master ul up
  ip -n "h$n" address add "192.0.2.$n/24" dev u0
  ip -n "h$n" link set u0 up
  mkdir -p "$files/h$n/etc/weft/overlay/peers.d" "$files/h$n/etc/weft/overlay/networks.d"
done
for n in "${hosts[@]}"; do
  config=$files/h$n/etc/weft/overlay
  describe "$n" >"$config/host.toml"
  for peer in "${hosts[@]}"; do
    describe "$peer" >"$config/peers.d/h$peer.toml"
  done
  printf 'name = "blue"\nvni = 5000\nsubnets = ["10.1.0.0/16"]\n' >"$config/networks.d/blue.toml"
done
for n in "${hosts[@]}"; do
  on "$n" weft network create -d overlay --subnet 10.1.0.0/16 blue >/dev/null
  ip netns add "c$n"
  on "$n" weft network connect blue "c$n"
done

cat <<TEXT
c1 is on h1, c2 on h2, c3 on h3. Look at:

  ip netns exec c1 ping -c1 10.1.0.66                    c1 reaches c2, on the other host
  ip netns exec h1 ip route show proto 201               a route for each other host's block
  ip netns exec h1 ip neigh show dev ov1388              whose next hops are these
  ip netns exec h1 bridge fdb show dev ov1388            and who is tunnelled to there
  ip netns exec h1 ip -d link show ov1388                it learns nothing and floods nothing
  ip netns exec h1 nft list table inet weft_tunnels      only known hosts are let in
  ip netns exec h1 ip link delete ov1388                 break it, and mend it:
  WEFT_ROOT=$files/h1 ip netns exec h1 weft overlay apply
  $0 --down                 take it all down
TEXT
