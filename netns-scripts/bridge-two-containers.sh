#!/usr/bin/env bash
# One network, two containers, and the outside.
#
#   sudo netns-scripts/bridge-two-containers.sh          build it and leave it up
#   sudo netns-scripts/bridge-two-containers.sh --down   take it down
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../target/stage/bin:$PATH

down() {
  for name in red green; do
    weft network disconnect -f blue "$name" 2>/dev/null || true
    ip netns delete "$name" 2>/dev/null || true
  done
  weft network rm -f blue >/dev/null
}

command -v weft >/dev/null || { echo "weft is not built yet: cargo xtask stage" >&2; exit 1; }
case ${1:-} in
  --down) down; exit ;;
  '') ;;
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac

weft network create --subnet 10.90.0.0/24 blue >/dev/null
ip netns add red
ip netns add green
weft network connect blue red
weft network connect --ip 10.90.0.20 blue green

cat <<TEXT
Network blue is up with red and green on it. Look at:

  weft ps                                     who is where
  weft network inspect blue                   the network as docker would show it
  ip netns exec red ping 10.90.0.20           red reaches green
  ip netns exec red ip route                  the way out is the bridge
  ip -d link show type bridge                 the bridge on the host
  bridge link                                 its ports: one end of each container's veth pair
  nft list table inet weft                    masquerading: static rules, one element for the network
  $0 --down             take it all down
TEXT
