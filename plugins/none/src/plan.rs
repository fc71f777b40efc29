//! What a container without a network needs, as a plan.

use weft_model::IfName;
use weft_plan::{Link, Plan};

/// Returns the whole plan: programs expect a loopback interface even where there is nothing else.
pub(crate) fn links() -> Plan {
    let mut plan = Plan::new();
    plan.container(Link::existing(&IfName::loopback()).up(true));
    plan
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_plan_is_one_line() {
        assert_eq!(super::links().to_string(), "container  link lo up\n");
    }
}
