//! How the kernel moves a range of ports by one rule.

use weft_model::port::PortRange;

/// The first and the last port to choose from, such that every port of a range gets its own.
///
/// KERNEL: with NF_NAT_RANGE_PROTO_OFFSET and no base, as nft_nat gives it, port `p` becomes `min + p % size`,
/// where `size` is `max - min + 1` (nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c). A range moves as a whole if none
/// of its ports but the first is divided by `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) min: u16,
    pub(crate) max: u16,
}

impl Window {
    /// Returns the window that takes `ports` to as many ports from `target` on; `None` if there is none.
    pub(crate) fn of(ports: PortRange, target: u16) -> Option<Self> {
        let (first, count, target) = (u32::from(ports.first()), u32::from(ports.len()), u32::from(target));
        let fits = |size: u32| {
            let rest = first % size;
            let min = target.checked_sub(rest)?;
            let max = min + size - 1;
            (rest + count <= size && max <= u32::from(u16::MAX)).then_some((min, max))
        };
        // The smallest one, because the kernel tries its other ports when the one it wants is in use. One that is larger
        // than the last port divides nothing.
        let (min, max) = (count..=first + count).find_map(fits)?;
        Some(Self { min: u16::try_from(min).ok()?, max: u16::try_from(max).ok()? })
    }

    /// Returns windows that take `ports`, in as few parts as halving leads to, to the ports from `target` on.
    pub(crate) fn cover(ports: PortRange, target: u16) -> Vec<(PortRange, Self)> {
        if let Some(window) = Self::of(ports, target) {
            return vec![(ports, window)];
        }
        // A single port has a window of size one, so that this ends.
        let middle = ports.first() + (ports.len() - 1) / 2;
        let halves =
            PortRange::new(ports.first(), middle).ok().zip(PortRange::new(middle + 1, ports.last()).ok());
        let Some((low, high)) = halves else { return Vec::new() };
        let mut parts = Self::cover(low, target);
        parts.extend(Self::cover(high, target + low.len()));
        parts
    }

    /// Returns where the kernel takes a port.
    #[cfg(test)]
    fn moves(self, port: u16) -> u32 {
        let size = u32::from(self.max) - u32::from(self.min) + 1;
        u32::from(self.min) + u32::from(port) % size
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(ports: &str, target: u16) -> Option<(u16, u16)> {
        Window::of(ports.parse().unwrap(), target).map(|window| (window.min, window.max))
    }

    #[test]
    fn usual_ranges_are_one_window() {
        for (ports, target, expected) in [
            ("8000-8099", 8000, (8000, 8099)),
            ("8000-8099", 9000, (9000, 9099)),
            ("8001-8099", 8001, (8000, 8099)),
            ("30000-39999", 1, (1, 10000)),
            ("8000-8099", 80, (80, 179)),
            ("1-65535", 1, (0, 65535)),
            ("8080", 80, (80, 80)),
            ("65535", 1, (1, 1)),
        ] {
            assert_eq!(window(ports, target), Some(expected), "{ports} to {target}");
        }
        assert_eq!(window("20001-60000", 20000), None, "down by less than there is room for");
    }

    proptest! {
        #[test]
        fn every_port_gets_its_own(first in 1_u16..=65535, target in 1_u16..=65535, count in 1_u16..=65535) {
            let count = count.min(65535 - first + 1).min(65535 - target + 1);
            let ports = PortRange::new(first, first + (count - 1)).unwrap();
            let parts = Window::cover(ports, target);
            let mut next = first;
            for (part, window) in &parts {
                prop_assert_eq!(part.first(), next);
                for port in part.ports() {
                    prop_assert_eq!(window.moves(port), u32::from(target) + u32::from(port - first));
                }
                next = part.last().wrapping_add(1);
            }
            prop_assert_eq!(next, (first + (count - 1)).wrapping_add(1));
            prop_assert!(parts.len() <= 32, "{} parts", parts.len());
        }

        #[test]
        fn ranges_that_stay_or_move_up_are_one_window(first in 1_u16..=65535, up in 0_u16..=65534, count in 1_u16..=65535) {
            let up = up.min(65535 - first);
            let count = count.min(65535 - first - up + 1);
            let ports = PortRange::new(first, first + (count - 1)).unwrap();
            prop_assert_eq!(Window::cover(ports, first + up).len(), 1);
        }
    }
}
