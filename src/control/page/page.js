"use strict";
// Asks the daemon every two seconds, and draws what it says. Text from the daemon becomes text, never markup.

const PERIOD = 2000;
const SHOWN = 12;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
let before = null;

async function ask(path) {
  const answer = await fetch("v1/" + path);
  if (!answer.ok) throw new Error(path);
  return answer.json();
}

async function look() {
  try {
    const [status, counters, endpoints, peers, drops] = await Promise.all(
      ["status", "counters", "endpoints", "peers", "drops"].map(ask));
    const now = rates(counters);
    head(status);
    topology(status, now, endpoints, peers);
    table("endpoints", ["workload", "address", "from it", "", "to it", "", "dropped"], endpoints.map((endpoint) => {
      const rate = now.get("endpoint " + endpoint.name);
      return [endpoint.workload, endpoint.addresses.join(" "), ...moved(rate), endpoint.attached ? endpoint.dropped : endpoint.how];
    }));
    table("peers", ["node", "how", "from it", "", "to it", "", "dropped"], peers.map((peer) => {
      const rate = now.get("peer " + peer.name);
      const how = peer.encapsulations.join(" ") + (peer.path_mtu ? ", path MTU " + peer.path_mtu.bytes : "");
      return [peer.name, peer.fault ? how + ", " + peer.fault.what : how, ...moved(rate), peer.dropped];
    }));
    table("drops", ["reason", "frames", "with", "what happened, and what to do"], drops.reasons.map((drop) =>
      [drop.reason, drop.count, drop.with.slice(0, 3).map((share) => share.who + " " + share.count).join(", "), drop.explanation]));
    at("gone").hidden = true;
  } catch {
    at("gone").hidden = false;
  }
  setTimeout(look, PERIOD);
}

// Frames and bytes a second since the last look, by party.
function rates(counters) {
  const sum = (forms, of) => Object.values(forms).reduce((all, one) => all + one[of], 0);
  const counts = new Map(counters.parties.map((party) => [(party.kind + " " + party.name).trim(),
    ["received", "sent"].flatMap((way) => ["frames", "bytes"].map((of) => sum(party[way], of)))]));
  const seconds = before ? (counters.uptime_milliseconds - before.time) / 1000 : 0;
  const since = (key, value, index) => {
    const old = before && before.counts.get(key);
    return seconds > 0 && old ? Math.max(0, value - old[index]) / seconds : 0;
  };
  const result = new Map([...counts].map(([key, values]) => [key, values.map((value, index) => since(key, value, index))]));
  before = { time: counters.uptime_milliseconds, counts };
  return result;
}

const scaled = (value, unit) => {
  const step = value >= 1e9 ? [1e9, "G"] : value >= 1e6 ? [1e6, "M"] : value >= 1e3 ? [1e3, "k"] : [1, ""];
  return (value / step[0]).toFixed(value >= 1e3 || value === 0 ? (value === 0 ? 0 : 1) : 0) + " " + step[1] + unit;
};
const moved = (rate) => {
  const [framesIn, bytesIn, framesOut, bytesOut] = rate || [0, 0, 0, 0];
  return [scaled(bytesIn * 8, "bit/s"), scaled(framesIn, "/s"), scaled(bytesOut * 8, "bit/s"), scaled(framesOut, "/s")];
};

function head(status) {
  at("node").textContent = `${status.node} · ${status.underlays.map((own) => `${own.address} on ${own.interface}`).join(", ")} · ${status.version} · up ${status.uptime_seconds} s`;
  at("health").textContent = status.health;
  at("health").className = status.health;
  at("problems").replaceChildren(...status.problems.map((problem) => make("li", problem)));
}

function make(name, text, kind) {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function table(id, names, rows) {
  const isNumber = (text) => typeof text === "number" || /^[\d.]+ [kMG]?(bit)?\/s$/.test(text);
  const row = (cells, name) => {
    const element = document.createElement("tr");
    element.append(...cells.map((cell) =>
      make(name, cell, isNumber(cell) ? "number" : String(cell).length > 60 ? "text" : "")));
    return element;
  };
  const first = rows[0] || [];
  const header = row(names, "th");
  [...header.children].forEach((cell, index) => { if (isNumber(first[index])) cell.className = "number"; });
  const none = rows.length ? [] : [row(["none"], "td")];
  at(id).replaceChildren(header, ...rows.map((cells) => row(cells, "td")), ...none);
}

function topology(status, now, endpoints, peers) {
  const busy = (kind) => (one) => (now.get(kind + " " + one.name) || [0, 0, 0, 0]);
  const heavy = (kind) => (a, b) => busy(kind)(b)[1] + busy(kind)(b)[3] - busy(kind)(a)[1] - busy(kind)(a)[3];
  const left = [...endpoints].sort(heavy("endpoint")).slice(0, SHOWN);
  const right = [...peers].sort(heavy("peer")).slice(0, SHOWN);
  const rows = Math.max(left.length, right.length, 2);
  const [width, step] = [1000, 46];
  const height = rows * step + 30;
  const svg = at("topology");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [];
  const node = { x: 400, y: height / 2 - 35, width: 200, height: 70 };
  const place = (index, count) => (height - count * step) / 2 + index * step + 4;
  const draw = (one, index, count, x, rate, lines, bad) => {
    const y = place(index, count);
    const isLeft = x < node.x;
    const [from, to] = isLeft ? [x + 220, node.x] : [x, node.x + node.width];
    for (const [bytes, kind, shift] of [[rate[1], "in", -4], [rate[3], "out", 4]]) {
      const middle = (from + to) / 2;
      parts.push(shape("path", { class: bytes > 0 ? kind : "idle", "stroke-width": bytes > 0 ? Math.min(9, 1.5 + Math.log10(1 + bytes / 1000) * 1.5) : 1,
        d: `M${from},${y + 19 + shift} C${middle},${y + 19 + shift} ${middle},${node.y + 35 + shift} ${to},${node.y + 35 + shift}` }));
    }
    parts.push(shape("rect", { x, y, width: 220, height: 38, rx: 5, class: bad ? "bad" : "" }));
    parts.push(shape("text", { x: x + 10, y: y + 16 }, lines[0]), shape("text", { x: x + 10, y: y + 32, class: "faint" }, lines[1]));
  };
  const speed = (rate) => `↑ ${scaled(rate[1] * 8, "bit/s")}   ↓ ${scaled(rate[3] * 8, "bit/s")}`;
  left.forEach((one, index) => draw(one, index, left.length, 10, busy("endpoint")(one), [one.workload, speed(busy("endpoint")(one))], !one.attached));
  right.forEach((one, index) => draw(one, index, right.length, 770, busy("peer")(one), [`${one.name} · ${one.encapsulations.join(" ")}`, speed(busy("peer")(one))], one.fault));
  parts.push(shape("rect", { ...node, rx: 8 }), shape("text", { x: 500, y: node.y + 30, "text-anchor": "middle" }, status.node),
    shape("text", { x: 500, y: node.y + 50, "text-anchor": "middle", class: "faint" }, `${status.numbers.routes} routes`));
  const more = (all, shown, x) => all.length > shown.length && parts.push(shape("text", { x, y: height - 4, class: "faint" }, `and ${all.length - shown.length} more`));
  more(endpoints, left, 10);
  more(peers, right, 770);
  svg.replaceChildren(...parts);
}

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  if (text !== undefined) element.textContent = text;
  return element;
}

look();
