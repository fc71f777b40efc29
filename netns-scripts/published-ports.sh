#!/usr/bin/env bash
# One network, two containers; a port of the host leads to one of them.
#
#   sudo netns-scripts/published-ports.sh          build it and leave it up
#   sudo netns-scripts/published-ports.sh --down   take it down
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
weft network connect -p 8080:80 blue red
weft network connect blue green
weft port publish green 8081:80 >/dev/null

cat <<TEXT
Network blue is up. Port 8080 of the host leads to port 80 of red, 8081 to that of green. Look at:

  weft port ls                                       which port leads where
  ip netns exec red python3 -m http.server 80 &      something that answers
  curl http://127.0.0.1:8080/                        the host reaches red by its own loopback address
  ip netns exec green curl http://10.90.0.1:8080/    green reaches red by the host's address, and comes back the same way
  nft list map inet weft publish4                    one element for each port
  weft port unpublish red 8080:80                    the port is closed, red stays
  weft port publish red 80                           any free port of the host, which is printed
  nft flush ruleset; weft doctor                     what is missing when somebody takes the rules away
  weft network reload                                and how it comes back
  $0 --down                       take it all down
TEXT
