#!/usr/bin/env bash
# Two networks: red is on both, green and brown on one each.
#
#   sudo netns-scripts/two-networks-isolated.sh          build it and leave it up
#   sudo netns-scripts/two-networks-isolated.sh --down   take it down
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../target/stage/bin:$PATH

down() {
  for network in blue pink; do
    for name in red green brown; do
      weft network disconnect -f "$network" "$name" 2>/dev/null || true
    done
  done
  for name in red green brown; do
    ip netns delete "$name" 2>/dev/null || true
  done
  weft network rm -f blue pink >/dev/null
}

command -v weft >/dev/null || { echo "weft is not built yet: cargo xtask stage" >&2; exit 1; }
case ${1:-} in
  --down) down; exit ;;
  '') ;;
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac

weft network create --subnet 10.90.0.0/24 blue >/dev/null
weft network create --subnet 10.91.0.0/24 pink >/dev/null
for name in red green brown; do
  ip netns add "$name"
done
weft network connect blue red
weft network connect --gw-priority 10 pink red
weft network connect blue green
weft network connect pink brown

cat <<TEXT
red is on blue and pink, green on blue, brown on pink. Look at:

  netns-scripts/show.sh                       all of it at a glance
  ip netns exec red ip -brief address         eth0 on blue, eth1 on pink
  ip netns exec red ip route                  the default route goes by pink: --gw-priority 10
  ip netns exec green ip -brief address       green has an address of blue alone
  ip netns exec red ping -c1 10.90.0.3        red reaches green, a neighbour on blue
  ip netns exec red ping -c1 10.91.0.3        and brown, a neighbour on pink
  ip netns exec green ping -c1 -W1 10.91.0.3  green does not reach brown: no answer comes
  nft list table inet weft                    why: chain forward drops what goes between isolated bridges
  weft network create --subnet 10.90.0.0/25 x refused: it names the network in the way
  $0 --down             take it all down
TEXT
