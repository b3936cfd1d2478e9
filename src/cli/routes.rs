//! Routes as a table for people.

use super::table;
use crate::agent::view::Route;

/// One a line under a header: prefix, where it leads, how, class, and why. Empty text where there are none.
pub(super) fn table(routes: &[Route]) -> String {
    let row = |route: &Route| {
        let Route { prefix, to, how, class, because, .. } = route.clone();
        [prefix, to, how, class, because]
    };
    table::render(["PREFIX", "TO", "HOW", "CLASS", "BECAUSE"], routes.iter().map(row).collect())
}
