//! What is shown of the readings, and what keys change about it.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{DROPPED, Picture, RECEIVED_BITS, Reading, Row, SENT_BITS};
use crate::control::client::ClientError;

/// Shortest and longest interval between two readings.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];
/// A filter is no longer than that, characters: names are not either.
const LONGEST_FILTER: usize = 64;

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Bits that they hand in.
    Received,
    /// Bits that are sent to them.
    Sent,
    Dropped,
    Name,
}

impl Sort {
    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Received => "received",
            Sort::Sent => "sent",
            Sort::Dropped => "drops",
            Sort::Name => "name",
        }
    }

    /// Of the numbers.
    pub(super) fn column(self) -> Option<usize> {
        match self {
            Sort::Received => Some(RECEIVED_BITS),
            Sort::Sent => Some(SENT_BITS),
            Sort::Dropped => Some(DROPPED),
            Sort::Name => None,
        }
    }
}

/// The rows that have `filter` in a name, most first; equals by name.
pub(super) fn sorted<'a>(rows: &'a [Row], sort: Sort, filter: &str) -> Vec<&'a Row> {
    let filter = filter.to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&filter);
    let mut rows: Vec<&Row> = rows.iter().filter(|row| has(&row.name) || has(&row.alias)).collect();
    let rate = |row: &Row| match (sort.column(), row.rates) {
        (Some(column), Some(rates)) => rates[column],
        _ => 0.0,
    };
    rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then_with(|| a.name.cmp(&b.name)));
    rows
}

/// A list that scrolls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scroll {
    /// Rows above the first one shown.
    pub(super) above: usize,
    /// Rows that were shown last.
    pub(super) page: usize,
}

impl Scroll {
    /// Keeps it within so many rows, of which `page` can be shown.
    pub(super) fn fit(&mut self, rows: usize, page: usize) {
        self.above = self.above.min(rows.saturating_sub(page));
        self.page = page;
    }
}

/// What a key asks for beyond the state itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// Readings at another interval.
    Interval(Duration),
    End,
}

/// All that decides what is to be seen.
#[derive(Debug)]
pub(super) struct State {
    before: Reading,
    pub(super) picture: Picture,
    /// Why there is no newer reading.
    pub(super) fault: Option<String>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Keys go into the filter.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) interval: Duration,
    /// The list that keys scroll: 0 endpoints, 1 peers.
    pub(super) chosen: usize,
    pub(super) scrolls: [Scroll; 2],
}

impl State {
    pub(super) fn new(first: Reading, interval: Duration) -> Self {
        State {
            picture: Picture::of(None, &first),
            before: first,
            fault: None,
            sort: Sort::Received,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            interval,
            chosen: 0,
            scrolls: [Scroll::default(); 2],
        }
    }

    /// Takes a reading, or why there is none; while paused what is shown stays.
    pub(super) fn take(&mut self, reading: Result<Reading, ClientError>) {
        match reading {
            Ok(reading) => {
                self.fault = None;
                if !self.is_paused {
                    self.picture = Picture::of(Some(&self.before), &reading);
                }
                self.before = reading;
            }
            Err(error) => self.fault = Some(error.to_string()),
        }
    }

    /// Does what a key says.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if has_control => Wish::End,
            _ if has_control => Wish::Nothing,
            code if self.is_typing => {
                self.type_filter(code);
                Wish::Nothing
            }
            code => self.command(code),
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(letter) if self.filter.chars().count() < LONGEST_FILTER => self.filter.push(letter),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            _ => {}
        }
    }

    fn command(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Char('q') => return Wish::End,
            KeyCode::Esc if self.filter.is_empty() => return Wish::End,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('r') => self.sort = Sort::Received,
            KeyCode::Char('s') => self.sort = Sort::Sent,
            KeyCode::Char('d') => self.sort = Sort::Dropped,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('+') => return self.wait(self.interval * 2),
            KeyCode::Char('-') => return self.wait(self.interval / 2),
            KeyCode::Tab | KeyCode::BackTab => self.chosen = 1 - self.chosen,
            code => self.scroll(code),
        }
        Wish::Nothing
    }

    fn wait(&mut self, interval: Duration) -> Wish {
        let [shortest, longest] = INTERVALS;
        self.interval = interval.clamp(shortest, longest);
        Wish::Interval(self.interval)
    }

    fn scroll(&mut self, code: KeyCode) {
        let Scroll { above, page } = &mut self.scrolls[self.chosen];
        match code {
            KeyCode::Up => *above = above.saturating_sub(1),
            KeyCode::Down => *above = above.saturating_add(1),
            KeyCode::PageUp => *above = above.saturating_sub(*page),
            KeyCode::PageDown => *above = above.saturating_add(*page),
            KeyCode::Home => *above = 0,
            // To the last page, when it is known how many there are.
            KeyCode::End => *above = usize::MAX,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::COLUMNS;
    use super::super::rates::tests::{party, reading};
    use super::*;
    use crate::agent::view::Kind;

    fn state() -> State {
        State::new(reading(1_000, Vec::new()), Duration::from_secs(1))
    }

    fn press(state: &mut State, codes: &[KeyCode]) -> Wish {
        codes.iter().map(|code| state.key((*code).into())).last().unwrap()
    }

    fn type_text(state: &mut State, text: &str) -> Wish {
        text.chars().map(|letter| state.key(KeyCode::Char(letter).into())).last().unwrap()
    }

    #[test]
    fn rows_stand_by_rate_then_name_and_only_those_that_are_looked_for() {
        let row = |name: &str, column: usize, rate: f64| {
            let mut rates = [0.0; COLUMNS];
            rates[column] = rate;
            let party = Counted { name: name.into() };
            party.row(rates)
        };
        let rows = [
            row("default/web", RECEIVED_BITS, 5.0),
            row("default/api", RECEIVED_BITS, 9.0),
            row("kube/dns", SENT_BITS, 7.0),
            row("kube/cache", DROPPED, 1.0),
        ];
        let names =
            |sort, filter| sorted(&rows, sort, filter).into_iter().map(|row| &*row.name).collect::<Vec<_>>();
        assert_eq!(names(Sort::Received, ""), ["default/api", "default/web", "kube/cache", "kube/dns"]);
        assert_eq!(names(Sort::Sent, "")[0], "kube/dns");
        assert_eq!(names(Sort::Dropped, "")[0], "kube/cache");
        assert_eq!(names(Sort::Name, ""), ["default/api", "default/web", "kube/cache", "kube/dns"]);
        assert_eq!(names(Sort::Received, "KUBE"), ["kube/cache", "kube/dns"]);
        assert_eq!(names(Sort::Received, "alias of default/w"), ["default/web"]);
        assert_eq!(names(Sort::Received, "nobody"), [""; 0]);
    }

    struct Counted {
        name: String,
    }

    impl Counted {
        fn row(self, rates: [f64; COLUMNS]) -> Row {
            let alias = format!("alias of {}", self.name);
            Row {
                name: self.name,
                alias,
                how: String::new(),
                path: super::super::rates::Path::None,
                rates: Some(rates),
            }
        }
    }

    #[test]
    fn q_escape_and_control_c_end() {
        assert_eq!(press(&mut state(), &[KeyCode::Char('q')]), Wish::End);
        assert_eq!(press(&mut state(), &[KeyCode::Esc]), Wish::End);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state().key(control_c), Wish::End);
        let mut typing = state();
        assert_eq!(type_text(&mut typing, "/q"), Wish::Nothing, "a letter of the filter");
        assert_eq!(typing.key(control_c), Wish::End, "also while a filter is typed");
    }

    #[test]
    fn a_filter_is_typed_kept_and_dropped() {
        let mut state = state();
        type_text(&mut state, "/pod-x");
        press(&mut state, &[KeyCode::Backspace, KeyCode::Char('a')]);
        assert_eq!((&*state.filter, state.is_typing), ("pod-a", true));
        press(&mut state, &[KeyCode::Enter]);
        assert_eq!((&*state.filter, state.is_typing), ("pod-a", false));
        assert_eq!(press(&mut state, &[KeyCode::Esc]), Wish::Nothing, "the first drops the filter");
        assert_eq!(state.filter, "");
        assert_eq!(press(&mut state, &[KeyCode::Esc]), Wish::End);
        type_text(&mut state, "/");
        type_text(&mut state, &"x".repeat(1_000));
        assert_eq!(state.filter.len(), LONGEST_FILTER);
    }

    #[test]
    fn the_interval_stays_in_its_bounds() {
        let mut state = state();
        assert_eq!(type_text(&mut state, "+"), Wish::Interval(Duration::from_secs(2)));
        assert_eq!(type_text(&mut state, &"+".repeat(100)), Wish::Interval(Duration::from_secs(60)));
        assert_eq!(type_text(&mut state, &"-".repeat(100)), Wish::Interval(Duration::from_millis(100)));
    }

    #[test]
    fn a_pause_keeps_what_is_shown_and_then_shows_the_last_interval() {
        let after = |seconds: u64, frames| {
            reading(seconds * 1_000, vec![party(Kind::Endpoint, "pod-a", [frames, 0, 0, 0, 0, 0])])
        };
        let frames = |state: &State| state.picture.endpoints[0].rates.map(|rates| rates[0]);
        let mut state = State::new(after(1, 0), Duration::from_secs(1));
        assert_eq!(frames(&state), None);
        state.take(Ok(after(2, 10)));
        type_text(&mut state, "p");
        state.take(Ok(after(3, 110)));
        assert_eq!(frames(&state), Some(10.0));
        type_text(&mut state, " ");
        state.take(Ok(after(4, 115)));
        assert_eq!(frames(&state), Some(5.0));
    }

    #[test]
    fn a_daemon_that_is_gone_is_told_until_one_answers() {
        let mut state = state();
        state.take(Err(ClientError::NoDaemon("/run/margay/margay.sock".into())));
        assert!(state.fault.as_ref().unwrap().contains("/run/margay/margay.sock"));
        state.take(Ok(reading(10, Vec::new())));
        assert_eq!((&state.fault, state.picture.total), (&None, None));
    }

    #[test]
    fn each_list_scrolls_within_its_rows() {
        let mut state = state();
        press(&mut state, &[KeyCode::Down, KeyCode::Down, KeyCode::Up]);
        state.scrolls[0].fit(100, 10);
        assert_eq!(state.scrolls, [Scroll { above: 1, page: 10 }, Scroll::default()]);
        press(&mut state, &[KeyCode::PageDown, KeyCode::PageDown, KeyCode::PageUp]);
        assert_eq!(state.scrolls[0].above, 11);
        press(&mut state, &[KeyCode::End, KeyCode::Down]);
        state.scrolls[0].fit(100, 10);
        assert_eq!(state.scrolls[0].above, 90);
        press(&mut state, &[KeyCode::Home, KeyCode::Up]);
        assert_eq!(state.scrolls[0].above, 0);
        press(&mut state, &[KeyCode::Tab, KeyCode::Down]);
        assert_eq!((state.scrolls[0].above, state.scrolls[1].above), (0, 1));
        state.scrolls[1].fit(0, 10);
        assert_eq!(state.scrolls[1].above, 0);
    }
}
