//! The table of layers, as it stands in ARCHITECTURE.md and in `src/lib.rs`.

use std::collections::BTreeSet;

/// A module's place.
struct Place {
    name: String,
    layer: usize,
    /// Position among the groups of its row: a module uses the groups left of its own.
    group: usize,
    /// The module of its own group that it may use.
    partner: Option<String>,
}

/// `| layer | modules | may do |`, a row per layer, the lowest first.
pub(crate) struct Table {
    places: Vec<Place>,
}

impl Table {
    /// # Panics
    /// When there is no such table.
    pub(crate) fn parse(text: &str) -> Table {
        let mut places = Vec::new();
        let rows = text.lines().skip_while(|line| !line.starts_with("| layer | modules |")).skip(2);
        for row in rows.take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let layer = cells[1].split(' ').next().unwrap().parse().expect("a row begins with its number");
            for (group, modules) in cells[2].split('<').enumerate() {
                let pairs = modules.split(',').map(names);
                for pair in pairs {
                    for name in &pair {
                        let partner = pair.iter().find(|other| *other != name).cloned();
                        places.push(Place { name: name.clone(), layer, group, partner });
                    }
                }
            }
        }
        assert!(!places.is_empty(), "no table of layers");
        let table = Table { places };
        assert_eq!(table.modules().len(), table.places.len(), "a module stands twice");
        table
    }

    pub(crate) fn modules(&self) -> BTreeSet<&str> {
        self.places.iter().map(|place| place.name.as_str()).collect()
    }

    pub(crate) fn layer_of(&self, module: &str) -> Option<usize> {
        self.place(module).map(|place| place.layer)
    }

    /// # Panics
    /// When one of them is not in the table.
    pub(crate) fn may_use(&self, user: &str, used: &str) -> bool {
        let (user, used) = (self.place(user).unwrap(), self.place(used).unwrap());
        user.name == used.name
            || (used.layer, used.group) < (user.layer, user.group)
            || user.partner.as_ref() == Some(&used.name)
    }

    fn place(&self, module: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.name == module)
    }
}

/// The names in backticks, with or without a link's brackets; two of them when a `↔` stands between.
fn names(text: &str) -> Vec<String> {
    text.split('↔').filter_map(|part| Some(part.split('`').nth(1)?.to_owned())).collect()
}
