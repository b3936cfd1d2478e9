//! Draws the state, whatever the size.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Row as Cells, Table};

use super::batch::{path, with};
use super::rates::{COLUMNS, DROPPED, NAMES, Path, Picture, Row, scaled};
use super::state::{Scroll, Sort, State, sorted};
use crate::agent::view::{Health, Reason};

/// Of the columns of numbers: their names, or five characters of [`scaled`].
const NUMBERS: [u16; COLUMNS] = [10, 6, 6, 6, 7, 7];
/// What they and the space in front of each take.
const ALL_NUMBERS: u16 = {
    let [a, b, c, d, e, f] = NUMBERS;
    a + b + c + d + e + f + COLUMNS as u16
};
/// `BROKEN`, or bytes.
const PATH: u16 = 6;
/// Encapsulations: `vxlan`, or two of them.
const HOW: u16 = 10;
/// Room for `ENDPOINT 10-20 of 100`.
const NARROWEST: u16 = 24;
/// Of the problems so many are shown.
const PROBLEMS: usize = 3;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red);

/// Draws all of it, and fits how far its lists are scrolled to what there is.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let above = head(state);
    let head_lines = u16::try_from(above.len()).unwrap_or(u16::MAX);
    let [top, body, bottom] =
        Layout::vertical([Constraint::Length(head_lines), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Text::from(above), top);
    frame.render_widget(keys(state), bottom);

    let Picture { endpoints, peers, drops, .. } = &state.picture;
    let [endpoints, peers] = [endpoints, peers].map(|rows| sorted(rows, state.sort, &state.filter));
    // A section is an empty line, names of columns, rows.
    let wants = [endpoints.len() + 2, peers.len() + 2, if drops.is_empty() { 0 } else { drops.len() + 2 }];
    let [first, second, third] = Layout::vertical(shares(body.height, wants)).areas(body);
    let names = names_width(body.width, &endpoints, &peers);
    for (index, (rows, area)) in [(endpoints, first), (peers, second)].into_iter().enumerate() {
        let list = List { index, is_chosen: index == state.chosen, sort: state.sort, names };
        list.draw(frame, without_gap(area), &rows, &mut state.scrolls[index]);
    }
    draw_drops(frame, without_gap(third), drops);
}

fn head(state: &State) -> Vec<Line<'static>> {
    let Picture { title, health, uptime, problems, total, .. } = &state.picture;
    let style = match health {
        Health::Good => Style::new().fg(Color::Green),
        Health::Degraded => BAD,
    };
    let paused = if state.is_paused { "  PAUSED" } else { "" };
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("{title}: "), BOLD),
        Span::styled(health.to_string(), style),
        format!(", {uptime}").into(),
        Span::styled(paused, BOLD),
    ])];
    lines.push(match total {
        None => "the first reading: rates come with the next".into(),
        Some(rates) => {
            // What comes in goes out, but for outer headers: bits are told once.
            let [received, bits, sent, _, dropped, punted] = rates.map(scaled);
            let moved = format!("received {received}/s, {bits}bit/s  sent {sent}/s");
            format!("{moved}  dropped {dropped}/s  punted {punted}/s").into()
        }
    });
    for problem in problems.iter().take(PROBLEMS) {
        lines.push(Line::styled(format!("PROBLEM {problem}"), BAD));
    }
    if let Some(more @ 1..) = problems.len().checked_sub(PROBLEMS) {
        lines.push(Line::styled(format!("PROBLEM {more} more: margay status"), BAD));
    }
    if let Some(fault) = &state.fault {
        lines.push(Line::styled(format!("NO ANSWER, what is shown is old: {fault}"), BAD));
    }
    lines
}

/// What keys do, with what they have done.
fn keys(state: &State) -> Line<'static> {
    if state.is_typing {
        return format!("filter: {}_  Enter keeps it, Esc drops it", state.filter).into();
    }
    let filter = if state.filter.is_empty() { String::new() } else { format!(": {}", state.filter) };
    let (sort, interval) = (state.sort.name(), state.interval);
    format!("q end  rsdn sort: {sort}  / filter{filter}  p pause  +- {interval:?}  Tab, arrows scroll").into()
}

/// Shares `height` lines among those who want so many each: evenly, and nobody gets more than wanted.
fn shares(height: u16, wants: [usize; 3]) -> [Constraint; 3] {
    let mut shares = [0; 3];
    for _ in 0..height {
        let hungry = (0..3).filter(|&index| usize::from(shares[index]) < wants[index]);
        let Some(index) = hungry.min_by_key(|&index| shares[index]) else { break };
        shares[index] += 1;
    }
    shares.map(Constraint::Length)
}

fn without_gap(area: Rect) -> Rect {
    let gap = area.height.min(1);
    Rect { y: area.y + gap, height: area.height - gap, ..area }
}

/// What stands in front of the numbers is equally wide in both lists: the longest, if there is room.
fn names_width(width: u16, endpoints: &[&Row], peers: &[&Row]) -> u16 {
    let longest = |rows: &[&Row]| rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let longest = longest(endpoints).max(longest(peers) + usize::from(1 + HOW + 1 + PATH));
    let room = width.saturating_sub(ALL_NUMBERS).max(NARROWEST);
    u16::try_from(longest).unwrap_or(u16::MAX).clamp(NARROWEST, room)
}

/// One of the two lists with rates.
struct List {
    /// 0 endpoints, 1 peers.
    index: usize,
    /// Keys scroll it.
    is_chosen: bool,
    sort: Sort,
    /// Of all that stands in front of the numbers.
    names: u16,
}

impl List {
    fn draw(&self, frame: &mut Frame<'_>, area: Rect, rows: &[&Row], scroll: &mut Scroll) {
        let page = usize::from(area.height.saturating_sub(1));
        scroll.fit(rows.len(), page);
        let shown = &rows[scroll.above..rows.len().min(scroll.above + page)];
        let is_peers = self.index == 1;
        let details = if is_peers { vec![HOW, PATH] } else { vec![] };
        let name = self.names - details.iter().map(|width| width + 1).sum::<u16>();
        let widths = [name].into_iter().chain(details).chain(NUMBERS).map(Constraint::Length);
        let cells = shown.iter().map(|row| cells(row, usize::from(name), is_peers));
        let table = Table::new(cells, widths).header(self.header(rows.len(), scroll, is_peers));
        frame.render_widget(table.column_spacing(1), area);
    }

    fn header(&self, rows: usize, scroll: &Scroll, is_peers: bool) -> Cells<'static> {
        let title = if is_peers { "PEER" } else { "ENDPOINT" };
        let is_whole = rows <= scroll.page;
        let title = match (rows, is_whole) {
            (0, _) => format!("{title} none"),
            (_, true) => title.into(),
            (_, false) => format!("{title} {}-{} of {rows}", scroll.above + 1, scroll.above + scroll.page),
        };
        let mark = |is_marked, modifier| if is_marked { BOLD.add_modifier(modifier) } else { BOLD };
        let sorted = self.sort.column();
        let title = Cell::from(title).style(mark(self.is_chosen && !is_whole, Modifier::REVERSED));
        let details = if is_peers {
            vec![Cell::from("HOW").style(BOLD), right("MTU".into()).style(BOLD)]
        } else {
            vec![]
        };
        let numbers = NAMES.into_iter().enumerate().map(|(column, name)| {
            right(name.into()).style(mark(sorted == Some(column), Modifier::UNDERLINED))
        });
        [title].into_iter().chain(details).chain(numbers).collect()
    }
}

fn cells<'a>(row: &Row, name: usize, is_peer: bool) -> Cells<'a> {
    let named = Cell::from(fit(&row.name, name));
    let details = match is_peer {
        true => {
            let style = if row.path == Path::Broken { BAD } else { Style::new() };
            vec![Cell::from(row.how.clone()), right(path(row.path)).style(style)]
        }
        false => vec![],
    };
    let numbers = (0..COLUMNS).map(|column| match row.rates {
        None => right("-".into()),
        Some(rates) if column == DROPPED && rates[column] > 0.0 => right(scaled(rates[column])).style(BAD),
        Some(rates) => right(scaled(rates[column])),
    });
    [named].into_iter().chain(details).chain(numbers).collect()
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, drops: &[Reason]) {
    let cells = |drop: &Reason| {
        let rate = drop.per_second.map_or_else(|| "-".into(), scaled);
        let named = [Cell::from(drop.reason.clone()), with(&drop.with).into()];
        [right(rate), right(drop.count.to_string())].into_iter().chain(named).collect::<Cells<'_>>()
    };
    let reason = drops.iter().map(|drop| drop.reason.len()).max().unwrap_or(0).max("REASON".len());
    let count = drops.iter().map(|drop| drop.count.to_string().len()).max().unwrap_or(0).max("TOTAL".len());
    let lengths = ["DROPS/S".len(), count, reason].map(|length| Constraint::Length(length as u16));
    let widths = lengths.into_iter().chain([Constraint::Fill(1)]);
    let header = [right("DROPS/S".into()), right("TOTAL".into()), "REASON".into(), "WITH".into()];
    let rows = drops.iter().take(usize::from(area.height)).map(cells);
    let table = Table::new(rows, widths).header(Cells::new(header).style(BOLD)).column_spacing(1);
    if !drops.is_empty() {
        frame.render_widget(table, area);
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Text::from(text).alignment(Alignment::Right))
}

/// A name that is too long keeps its end, which tells pods of one deployment apart.
fn fit(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        return name.into();
    }
    ['…'].into_iter().chain(name.chars().skip(count + 1 - width.max(1))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    use super::super::rates::tests::{party, reading, reason};
    use super::*;
    use crate::agent::view::{Counted, Fault, Kind};
    use crate::control::client::ClientError;

    /// What stands on a screen of this size.
    fn screen(state: &mut State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let lines = terminal.backend().buffer().content().chunks(width.max(1).into());
        let lines = lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
        lines.map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    fn state(before: Vec<Counted>, after: Vec<Counted>) -> State {
        let mut state = State::new(reading(1_000, before), Duration::from_secs(1));
        let mut reading = reading(2_000, after);
        reading.drops.reasons = vec![reason("blackhole", 3)];
        state.take(Ok(reading));
        state
    }

    /// Two pods and a peer that something passes.
    fn busy() -> State {
        let parties = |a, b, peer| {
            let kinds =
                [(Kind::Endpoint, "pod-a", a), (Kind::Endpoint, "pod-b", b), (Kind::Peer, "node-b", peer)];
            kinds.map(|(kind, name, counts)| party(kind, name, counts)).to_vec()
        };
        let before = parties([0; COLUMNS], [0; COLUMNS], [0; COLUMNS]);
        state(
            before,
            parties(
                [12, 1_176, 12, 1_176, 3, 0],
                [45_600, 68_400_000, 1_234, 82_000, 0, 1],
                [1_246, 83_176, 45_612, 68_401_176, 0, 0],
            ),
        )
    }

    #[test]
    fn the_screen_shows_who_moves_how_much() {
        let expected = "\
margay 0.1.0 on node node-a: good, up 00:01:02
received 46.9k/s, 548Mbit/s  sent 46.9k/s  dropped 3.0/s  punted 1.0/s

ENDPOINT                 RECEIVED/S  BIT/S SENT/S  BIT/S DROPS/S PUNTS/S
default/pod-b                 45.6k   547M  1.23k   656k       0     1.0
default/pod-a                    12  9.41k     12  9.41k     3.0       0

PEER   HOW           MTU RECEIVED/S  BIT/S SENT/S  BIT/S DROPS/S PUNTS/S
node-b vxlan        1500      1.25k   665k  45.6k   547M       0       0

DROPS/S TOTAL REASON    WITH
    3.0     3 blackhole default/pod-a 3



q end  rsdn sort: received  / filter  p pause  +- 1s  Tab, arrows scroll
";
        assert_eq!(screen(&mut busy(), 80, 16), expected);
    }

    #[test]
    fn what_is_wrong_stands_above() {
        let mut state = busy();
        let mut wrong = reading(3_000, vec![]);
        wrong.status.health = Health::Degraded;
        wrong.status.problems = (1..=5).map(|number| format!("endpoint {number} is not attached")).collect();
        wrong.peers[0].fault = Some(Fault { what: "host unreachable".into(), for_seconds: 9 });
        state.take(Ok(wrong));
        state.take(Err(ClientError::NoDaemon("/run/margay/margay.sock".into())));
        state.key(KeyCode::Char('p').into());
        let expected = "\
margay 0.1.0 on node node-a: degraded, up 00:01:02  PAUSED
received 0/s, 0bit/s  sent 0/s  dropped 0/s  punted 0/s
PROBLEM endpoint 1 is not attached
PROBLEM endpoint 2 is not attached
PROBLEM endpoint 3 is not attached
PROBLEM 2 more: margay status
NO ANSWER, what is shown is old: no daemon listens at /run/margay/margay.sock: s

ENDPOINT none            RECEIVED/S  BIT/S SENT/S  BIT/S DROPS/S PUNTS/S

PEER   HOW           MTU RECEIVED/S  BIT/S SENT/S  BIT/S DROPS/S PUNTS/S
node-b vxlan      BROKEN          0      0      0      0       0       0

q end  rsdn sort: received  / filter  p pause  +- 1s  Tab, arrows scroll
";
        assert_eq!(screen(&mut state, 80, 14), expected);
    }

    /// A hundred pods, each of which hands in as many frames as its number says.
    fn many() -> State {
        let name = |pod: u64| format!("web-7d9f8b6c5d-{pod:03}");
        let parties = (1..=100).map(|pod| party(Kind::Endpoint, &name(pod), [pod, pod, 0, 0, 0, 0]));
        state(vec![], parties.collect())
    }

    #[test]
    fn many_endpoints_scroll() {
        let mut state = many();
        let first = "\
margay 0.1.0 on node node-a: good, up 00:01:02
received 5.05k/s, 40.4kbit/s  sent 0/s  dropped 0/s  punted 0/s

ENDPOINT 1-5 of 100        RECEIVED/S  BIT/S SENT/S  BIT/S DROPS/S PUNTS/S
default/web-7d9f8b6c5d-100        100    800      0      0       0       0
default/web-7d9f8b6c5d-099         99    792      0      0       0       0
default/web-7d9f8b6c5d-098         98    784      0      0       0       0
default/web-7d9f8b6c5d-097         97    776      0      0       0       0
default/web-7d9f8b6c5d-096         96    768      0      0       0       0

";
        let shown = screen(&mut state, 76, 16);
        assert!(shown.starts_with(first), "{shown}");
        state.key(KeyCode::PageDown.into());
        state.key(KeyCode::Down.into());
        assert!(screen(&mut state, 76, 16).contains("\nENDPOINT 7-11 of 100 "));
        state.key(KeyCode::End.into());
        let last = screen(&mut state, 76, 16);
        assert!(last.contains("\nENDPOINT 96-100 of 100 ") && last.contains("-001  "), "{last}");
        for key in "/-04".chars() {
            state.key(KeyCode::Char(key).into());
        }
        let filtered = screen(&mut state, 76, 16);
        assert!(
            filtered.contains("\nENDPOINT 5-10 of 10 ") && filtered.contains("filter: -04_"),
            "{filtered}"
        );
        state.key(KeyCode::Enter.into());
        state.key(KeyCode::Home.into());
        let narrow = screen(&mut state, 72, 16);
        assert!(narrow.contains("\n…ault/web-7d9f8b6c5d-049 "), "{narrow}");
    }

    #[test]
    fn no_size_is_too_small_or_too_large() {
        for mut state in [busy(), many(), State::new(reading(1, vec![]), Duration::from_secs(1))] {
            for width in [0, 1, 7, 39, 80, 200] {
                for height in [0, 1, 2, 3, 4, 7, 24, 50] {
                    screen(&mut state, width, height);
                    state.key(KeyCode::End.into());
                    state.key(KeyCode::Tab.into());
                }
            }
        }
    }

    #[test]
    fn lines_are_shared_evenly_and_what_nobody_wants_stays_empty() {
        let shares = |height, wants| {
            shares(height, wants).map(|share| match share {
                Constraint::Length(lines) => lines,
                _ => unreachable!("only lengths are made"),
            })
        };
        assert_eq!(shares(24, [100, 3, 0]), [21, 3, 0]);
        assert_eq!(shares(24, [100, 100, 100]), [8, 8, 8]);
        assert_eq!(shares(24, [3, 4, 5]), [3, 4, 5]);
        assert_eq!(shares(2, [3, 4, 5]), [1, 1, 0]);
        assert_eq!(shares(0, [3, 4, 5]), [0, 0, 0]);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(fit("default/web-1", 13), "default/web-1");
        assert_eq!(fit("default/web-1", 6), "…web-1");
        assert_eq!((&*fit("default/web-1", 1), &*fit("default/web-1", 0)), ("…", "…"));
    }
}
