// Draws /status. It asks every two seconds, keeps nothing but what is on the screen, and writes no markup from data:
// every text goes in as text.

const EVERY = 2000;
const PATIENCE = 5000;
const LOST_AFTER = 2; // failed requests in a row
const ROWS = 40; // of a long table, before somebody asks for all
const FEW = 6; // of a list that is not the first thing to read

const view = {
  status: null, // the latest /status
  history: null, // the latest /status?section=history
  recent: null, // the latest /status/workers/recent
  tag: null, // its ETag
  offset: 0, // the sidecar's clock minus ours, milliseconds
  changedAt: null, // by our clock: the latest document
  heardAt: null, // and the latest answer that says how things stand
  historyOf: null, // the states of which `history` tells
  recentOf: null, // the look of which `recent` tells
  lost: null, // {since, why}
  stuck: false, // the sidecar calls itself not alive
  failures: 0,
  isAsking: false, // for history and recent
  sort: { key: 'cpu', down: true },
  all: new Set(), // long tables that are shown whole
};

// ---- Spelling ----------------------------------------------------------------------------------------------------

const UNKNOWN = '–';

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const [m, h, d] = [Math.floor(s / 60), Math.floor(s / 3600), Math.floor(s / 86400)];
  if (m < 60) return `${m} min`;
  if (h < 48) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  return h % 24 ? `${d} d ${h % 24} h` : `${d} d`;
}

function brief(seconds) {
  if (seconds === 0 || seconds >= 10) return span(seconds);
  return seconds < 1 ? `${count(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

const count = (n) => n.toLocaleString('en', { maximumFractionDigits: n < 10 ? 2 : n < 100 ? 1 : 0 });
const dollars = (n) => `$${n.toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const words = (name) => name.replaceAll('_', ' ');
const capital = (text) => text.replace(/^./u, (c) => c.toUpperCase());
/** A key as a heading: its unit is told by the value. */
const title = (name) => capital(words(name.replace(/_(seconds|bytes|usd|percent|at)$/, '')).replace(/\b(cpu|mcp|api|url|pid)\b/g, (short) => short.toUpperCase()));
const two = (n) => String(n).padStart(2, '0');

/** By the sidecar's clock; once it is lost, time stands still for all that it said. */
const now = () => (view.lost ? view.heardAt : Date.now()) + view.offset;

function clock(ms) {
  const [at, today] = [new Date(ms), new Date(now())];
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (at.toDateString() === today.toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** How long a moment is from now, in words, as `kind` has it. */
function spell(kind, at) {
  const seconds = (now() - at) / 1000;
  if (kind === 'lately') return `${span((Date.now() + view.offset - at) / 1000)}`;
  if (kind === 'due') return seconds < -0.5 ? `in ${span(-seconds)}` : 'with the next observation';
  if (kind === 'for') return span(seconds);
  if (kind === 'clock') return clock(at);
  return seconds < -0.5 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
}

/** A moment that ages on the screen; the whole of it on hover. `kind`: `ago`, `for`, `clock`, `due`, or `lately`: as it is for who looks, also when the sidecar is lost. */
function moment(value, kind = 'ago') {
  if (value === null || value === undefined) return UNKNOWN;
  const at = typeof value === 'number' ? value : Date.parse(value);
  if (Number.isNaN(at)) return String(value);
  const full = new Date(at).toString().replace(/ \(.*/, '');
  return h('time', { datetime: new Date(at).toISOString(), 'data-kind': kind, title: full }, spell(kind, at));
}

/** What turns text round must not turn ours. */
const straight = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, '');

/** A name that somebody chose, whichever way it is written. */
const chosen = (text) => h('bdi', {}, text);

const since = (value) => [moment(value, 'for'), ', since ', moment(value, 'clock')];

/** A value by the name of its key, as far as the ending says what it is. */
function plain(key, value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (Array.isArray(value)) return value.length ? value.map((one) => plain('', one)).flatMap((one, i) => (i ? [', ', one] : [one])) : 'none';
  if (typeof value === 'object') return pairs(value);
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'number') return number(key, value);
  if (/_(at|run)$/.test(key) || key === 'at' || key === 'since') return moment(value);
  if (/(^|_)sha$/.test(key)) return h('code', { title: value }, value.slice(0, 7));
  return value;
}

function number(key, value) {
  if (/_?seconds$/.test(key)) return brief(value);
  if (/_?bytes$/.test(key)) return bytes(value);
  if (/_usd$/.test(key)) return dollars(value);
  if (/_percent$/.test(key)) return `${value.toFixed(1)} %`;
  return key === 'pid' ? String(value) : count(value);
}

function pairs(object) {
  const entries = Object.entries(object).filter(([, value]) => value !== null);
  return entries.flatMap(([key, value], i) => [i ? ', ' : '', `${words(key)} `, plain(key, value)].flat());
}

// ---- Elements ----------------------------------------------------------------------------------------------------

/** A wish for an element. `key` tells it from its siblings, so that it stays the same element. */
function h(tag, attributes, ...children) {
  const { key, on, ...rest } = attributes ?? {};
  const said = (child) => child !== null && child !== undefined && child !== false && child !== '';
  return { tag, key, on, attributes: rest, children: children.flat(Infinity).filter(said) };
}

/** The same, drawn again only when what it shows has changed: `shown` is all that `children` draws. */
function once(tag, attributes, shown, children) {
  return { ...h(tag, attributes), memo: JSON.stringify(shown), draw: children };
}

const SVG = 'http://www.w3.org/2000/svg';

function make(wish, isDrawn) {
  if (typeof wish !== 'object') return document.createTextNode('');
  const node = isDrawn ? document.createElementNS(SVG, wish.tag) : document.createElement(wish.tag);
  node.known = {};
  return node;
}

/** What each wish is known by; equal keys are told apart by their order. */
function identities(wishes) {
  const used = new Map();
  return wishes.map((wish, i) => {
    const id = typeof wish !== 'object' ? `#${i}` : `${wish.tag} ${wish.key ?? i}`;
    used.set(id, (used.get(id) ?? 0) + 1);
    return `${id} ${used.get(id)}`;
  });
}

/** Makes an element's children what is wished, touching only what differs. */
function fit(parent, wishes, isDrawn = false) {
  const ids = identities(wishes);
  const wanted = new Set(ids);
  const old = new Map();
  // First away with what goes: what is never moved keeps focus and selection.
  for (const child of [...parent.childNodes]) {
    if (wanted.has(child.identity)) old.set(child.identity, child);
    else child.remove();
  }
  let place = parent.firstChild;
  wishes.forEach((wish, i) => {
    const drawn = isDrawn || wish.tag === 'svg';
    const node = old.get(ids[i]) ?? Object.assign(make(wish, drawn), { identity: ids[i] });
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    become(node, wish, drawn);
  });
}

function become(node, wish, isDrawn) {
  if (typeof wish !== 'object') {
    const text = straight(String(wish));
    if (node.data !== text) node.data = text;
    return;
  }
  if (wish.memo !== undefined && node.memo === wish.memo) return;
  node.memo = wish.memo;
  for (const name of Object.keys(node.known)) if (!(name in wish.attributes)) node.removeAttribute(name);
  for (const [name, value] of Object.entries(wish.attributes)) {
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else if (node.known[name] !== value) node.setAttribute(name, value === true ? '' : value);
  }
  node.known = wish.attributes;
  for (const [event, listener] of Object.entries(wish.on ?? {})) node[`on${event}`] = listener;
  fit(node, wish.draw ? h('', {}, wish.draw()).children : wish.children, isDrawn);
}

// ---- States ------------------------------------------------------------------------------------------------------

const MARKS = { ok: '✓', failed: '✕', failing: '▲', recovering: '△', starting: '○', unknown: '?' };
const SAYS = {
  ok: 'ok', failed: 'failed', failing: 'recently bad', recovering: 'recovering', starting: 'not seen yet', unknown: 'unknown',
};
const WORST = ['failed', 'recovering', 'failing', 'unknown', 'starting', 'ok'];
const GRAVEST = ['critical', 'warning', 'info'];

const says = (state) => SAYS[state] ?? words(state);

const mark = (state) =>
  h('span', { class: `mark s-${state}`, title: says(state) }, h('span', { 'aria-hidden': 'true' }, MARKS[state] ?? '?'), h('span', { class: 'hidden' }, `${says(state)} `));

const down = (check) => check.state === 'failed' || check.state === 'recovering';

/** The worst and gravest first, of equal ones the oldest. */
function byWeight(a, b) {
  return (
    Number(b.unready) - Number(a.unready) ||
    GRAVEST.indexOf(a.severity) - GRAVEST.indexOf(b.severity) ||
    WORST.indexOf(a.state) - WORST.indexOf(b.state) ||
    Date.parse(a.since) - Date.parse(b.since)
  );
}

// ---- The verdict -------------------------------------------------------------------------------------------------

const FACES = { healthy: ['✓', 'Healthy'], degraded: ['▲', 'Ready'], unhealthy: ['✕', 'Not ready'], starting: ['○', 'Starting'] };

/** What the overall verdict hangs on, gravest first. What is denied degrades too, and is no check. */
function reasons({ overall, checks }) {
  const of = (holds) => checks.filter(holds).sort(byWeight);
  if (overall === 'unhealthy') return of((check) => check.unready);
  if (overall !== 'degraded') return [];
  const worries = { critical: ({ state }) => !['ok', 'starting'].includes(state), warning: ({ state }) => state === 'failed' };
  return of((check) => worries[check.severity]?.(check));
}

function sentence(status) {
  const { health, collectors } = status;
  const [face, word] = FACES[health.overall] ?? ['?', health.overall];
  const [first, ...others] = reasons(health);
  const rest = others.length ? ` (and ${plural(others.length, 'more', 'more')})` : '';
  const said = h('span', { class: 'word' }, h('span', { 'aria-hidden': 'true' }, `${face} `), word);
  if (health.overall === 'starting') {
    const all = Object.values(collectors);
    const seen = all.filter((one) => one.last_success_at).length;
    return [said, ' for ', since(health.since), `: ${seen} of ${all.length} parts seen so far`];
  }
  if (health.overall === 'healthy') return [said, ' for ', since(health.since)];
  const joint = health.overall === 'degraded' ? ', but ' : ': ';
  if (!first) return [said, joint, unread(status), ' for ', since(health.since)];
  return [said, joint, told(first), lasting(first), coming(first), rest];
}

function unread(status) {
  const names = denied(status).map(([collector]) => words(collector));
  return names.length ? `the sidecar may not look at ${names.join(', ')}` : 'not all is well';
}

/** How long it has been as it is: what recovers is ok again, and has been bad before. */
const lasting = ({ state, since: from }) => [state === 'recovering' ? ', ok again for ' : ' for ', since(from)];

const coming = ({ state, trips_at: trips }) => state === 'failing' && trips !== null && ['; it fails ', moment(trips, 'due')];

/** An unknown check is not what its headline says: nobody knows. */
const unknownly = (check) => `nobody knows about ${words(check.check)}${check.subject && ` of ${check.subject}`}`;

function tally({ checks }) {
  const states = new Set([...WORST, ...checks.map((check) => check.state)]);
  const counts = [...states].map((state) => [state, checks.filter((check) => check.state === state).length]);
  const said = counts.filter(([, n]) => n).map(([state, n]) => `${n} ${says(state)}`);
  return `${plural(checks.length, 'check')}: ${said.join(', ')}.`;
}

function verdict(status) {
  const { health } = status;
  const probe = health.ready ? 'Ready for traffic: /readyz answers 200.' : 'Send no traffic: /readyz answers 503.';
  const missing = Object.entries(status.collectors).filter(([, one]) => !one.last_success_at).map(([name]) => words(name));
  const last = h('p', { key: 'then', class: 'then' }, 'Last known, at ', moment(view.heardAt + view.offset, 'clock'), ': ', sentence(status));
  if (view.lost) {
    return h('section', { class: 'verdict is-lost', key: 'verdict' },
      h('h1', {}, h('span', { 'aria-hidden': 'true' }, '? '), view.lost.reached ? 'No status from the sidecar for ' : 'Lost the sidecar for ', moment(view.lost.since, 'lately'), ', since ', moment(view.lost.since, 'clock')),
      last,
      h('p', { key: 'why' }, `${view.lost.why}. Whether the host works, nobody here can tell now. This page asks again every ${EVERY / 1000} s${view.lost.reached ? '' : ': see whether the sidecar’s process runs'}. Below stands what it saw last.`));
  }
  if (view.stuck) {
    return h('section', { class: 'verdict is-lost', key: 'verdict' },
      h('h1', {}, 'The sidecar itself stands still'),
      last,
      h('p', { key: 'why' }, 'It answers, but takes no new readings: no verdict holds. Restart it.'));
  }
  return h('section', { class: `verdict is-${health.overall}`, key: 'verdict' },
    h('h1', {}, sentence(status)),
    h('p', { key: 'probe' }, `${probe} ${tally(health)}`),
    health.overall === 'starting' && missing.length > 0 && h('p', { key: 'missing' }, `Not seen yet: ${missing.join(', ')}.`),
    status.sidecar.config.error && h('p', { key: 'config' }, 'A newer configuration was refused: ', status.sidecar.config.error));
}

// ---- What is wrong -----------------------------------------------------------------------------------------------

function wrong(status) {
  const { checks } = status.health;
  const failed = grouped(checks.filter((check) => down(check) && check.severity !== 'info'));
  const hints = grouped(checks.filter((check) => down(check) && check.severity === 'info'));
  const doubtful = grouped(checks.filter((check) => !down(check) && check.state !== 'ok' && check.state !== 'starting'));
  return [
    listing('wrong', 'What blocks readiness', failed.filter(([check]) => check.unready), (group) => fault(group, status)),
    listing('wrong too', failed.some(([check]) => check.unready) ? 'What else has failed' : 'What has failed', failed.filter(([check]) => !check.unready), (group) => fault(group, status)),
    listing('doubtful', 'Not failed yet, or unknown', doubtful, (group) => remark(group, status)),
    listing('hints', 'Good to know', hints, (group) => remark(group, status)),
  ];
}

/** Subjects of which the same is to be said, the gravest first. */
function grouped(checks) {
  const groups = new Map();
  for (const check of checks.sort(byWeight)) {
    const key = `${check.check} ${check.state} ${check.severity} ${check.unready}`;
    groups.set(key, [...(groups.get(key) ?? []), check]);
  }
  return [...groups.values()];
}

function listing(name, head, groups, item) {
  if (!groups.length) return null;
  const isGrave = name.startsWith('wrong');
  const first = isGrave ? ROWS : FEW;
  const shown = groups.slice(0, view.all.has(name) ? Infinity : first);
  return h('section', { key: name }, h('h2', {}, head, ' ', h('span', { class: 'soft' }, plural(groups.flat().length, 'check'))),
    h('ul', { class: isGrave ? 'wrong' : 'wrong brief' }, shown.map(item)),
    more(name, groups.length, first));
}

/** Nobody said that it is bad: it failed because nobody says anything. */
const isSilent = (check) => check.state === 'failed' && check.rule.startsWith('unknown_for');

const headline = (check) => {
  if (check.state === 'unknown') return unknownly(check);
  return isSilent(check) ? `no answer about ${check.subject || words(check.check)}` : check.headline;
};

/** The headline, with the name in it apart. */
function told(check, begin = headline(check)) {
  const { subject } = check;
  const at = subject ? begin.lastIndexOf(subject) : -1;
  return at < 0 ? begin : [begin.slice(0, at), chosen(subject), begin.slice(at + subject.length)];
}

/** A name that somebody chose stays as it is, also where a line begins. */
const lead = (check) => (check.subject && headline(check).startsWith(check.subject) ? headline(check) : capital(headline(check)));

/** The others of a group, by name. */
function besides([, ...others]) {
  if (!others.length) return null;
  const named = others.slice(0, 12).flatMap(({ subject, since }, i) => [i ? ', ' : '', h('span', { key: subject }, chosen(subject), ' ', h('span', { class: 'soft' }, moment(since, 'for')))]);
  return h('p', { key: 'others' }, 'Also ', named, others.length > 12 && ` and ${plural(others.length - 12, 'more', 'more')}`, '.');
}

function fault(group, status) {
  const [check] = group;
  return h('li', { key: `${check.check} ${check.state} ${check.severity} ${check.unready}` },
    mark(check.state),
    h('div', {},
      h('h3', {}, told(check, lead(check)), h('span', { class: 'soft' }, lasting(check), ' '), severity(check)),
      h('p', { class: 'why' }, isSilent(check) ? silence(check, status) : check.means, ' ', where(check, status)),
      besides(group),
      h('p', {}, explanation(check, status))));
}

/** Not (or not yet) what anybody has to act on: a line, and the reason. */
function remark(group, status) {
  const [check, ...others] = group;
  return h('li', { key: `${check.check} ${check.state} ${check.severity} ${check.unready}` },
    mark(check.state),
    h('div', {},
      h('h3', {}, told(check, lead(check)), others.length > 0 && ` and ${plural(others.length, 'other')}`, h('span', { class: 'soft' }, lasting(check), ' '), severity(check)),
      besides(group),
      h('p', {}, explanation(check, status), ' ', where(check, status))));
}

function silence(check, status) {
  const error = status.collectors[check.collector]?.error;
  return `${CAUSES[check.unknown_cause] ?? 'Nothing is known of it now.'}${error ? ` ${title(check.collector)}: ${error}.` : ''}`;
}

const severity = (check) => {
  const grave = { critical: 's-failed', warning: 's-failing', info: 's-unknown' }[check.severity];
  return h('span', { class: `tag ${grave}` }, check.unready ? 'critical, blocks readiness' : check.severity);
};

/** By which rule it stands as it does, and what turns it. */
function explanation(check, status) {
  const seen = `Bad in ${check.bad} of ${plural(check.observed, 'observation')}; rule ${check.rule}. `;
  const trip = check.trips_at !== null && ['It fails ', moment(check.trips_at, 'due'), ' if this goes on.'];
  switch (check.state) {
    case 'failed':
      return [seen, !isSilent(check) && check.unknown_cause && `${silence(check, status)} `, recovery(check)];
    case 'failing':
      return [seen, trip || 'Not yet long enough to count as failed.'];
    case 'recovering':
      return check.recovers_at !== null ? ['It counts as recovered ', moment(check.recovers_at, 'due'), ' if it stays ok.'] : 'It has to stay ok for a while.';
    default:
      return [`${silence(check, status)} `, trip];
  }
}

function recovery({ recovers_at, recovers_after_seconds }) {
  if (recovers_at !== null) return ['It counts as recovered ', moment(recovers_at, 'due'), ' if it stays ok.'];
  return recovers_after_seconds ? `It recovers after ${span(recovers_after_seconds)} of ok answers.` : 'It recovers with the next good answer.';
}

const CAUSES = {
  denied: 'The sidecar may not look.',
  unanswered: 'The latest looks brought no answer.',
  excused: 'It cannot be told now, and that is nobody’s fault: the host is starting, or what it depends on is away.',
};

const where = (check, status) => check.collector in status && h('a', { href: `#${check.collector}` }, `See\u00a0${words(check.collector).replaceAll(' ', '\u00a0')}`);

// ---- The last day ------------------------------------------------------------------------------------------------

const DAY = 24 * 3600 * 1000;
const KEPT = 100; // changes of one check and subject

/** Before that nobody can tell whether somebody watched. */
function firstKnown({ sidecar }) {
  const { checks, unwatched } = view.history;
  const moments = [sidecar.started_at, ...checks.flatMap(({ changes }) => changes.slice(0, 1).map(({ at }) => at)), ...unwatched.map(({ from }) => from)];
  return Math.min(...moments.map((at) => Date.parse(at)));
}

/** `[{state, from, to}]` of one check and subject over the last day, by its changes and what it is now. */
function stretches(changes, latest, begin, end) {
  const known = changes.map(({ at, from, to }) => ({ at: Date.parse(at), from, to }));
  // Of one that changes without end only the latest changes are kept: what was before them nobody knows.
  const before = known.length >= KEPT ? null : known.length ? known[0].from : latest;
  const marks = [{ at: begin, state: before }, ...known.map(({ at, to }) => ({ at, state: to }))];
  return marks
    .map(({ at, state }, i) => ({ state, from: Math.max(at, begin), to: Math.min(marks[i + 1]?.at ?? end, end) }))
    .filter(({ state, from, to }) => state && to > from);
}

function timeline(status) {
  if (!view.history) return null;
  const end = now();
  const watched = Math.max(end - DAY, firstKnown(status));
  // At least so long that what lasted for seconds does not look like all of it.
  const begin = Math.min(watched, end - DAY / 96);
  const latest = new Map(status.health.checks.map((check) => [`${check.check} ${check.subject}`, check]));
  const pasts = new Map(view.history.checks.map((past) => [`${past.check} ${past.subject}`, past]));
  const lines = [...new Set([...pasts.keys(), ...latest.keys()])]
    .map((key) => {
      const [past, check] = [pasts.get(key), latest.get(key)];
      const { subject, check: name } = past ?? check;
      const parts = stretches(past?.changes ?? [], check?.state ?? null, watched, end);
      return { key, name, subject, check, parts };
    })
    .filter(({ parts }) => parts.some(({ state }) => state !== 'ok' && state !== 'starting'));
  if (!lines.length) return null;
  const weight = ({ parts }) => Math.min(...parts.map(({ state }) => WORST.indexOf(state)));
  lines.sort((a, b) => weight(a) - weight(b) || (a.key < b.key ? -1 : 1));
  const away = view.history.unwatched.map(({ from, to }) => ({ state: 'away', from: Date.parse(from), to: Date.parse(to) }));
  const shown = lines.slice(0, view.all.has('day') ? Infinity : 2 * FEW);
  return h('section', { key: 'day' },
    h('h2', {}, `Last ${span((end - begin) / 1000)} `, h('span', { class: 'soft' }, 'of every check that was not always ok')),
    shown.map((line) => past(line, away, begin, end)),
    h('div', { class: 'line', 'aria-hidden': 'true', key: 'hours' }, h('span', {}),
      h('div', { class: 'hours' }, [0, 1, 2, 3, 4].map((i) => h('span', { key: i }, i === 4 ? 'now' : hour(begin + ((end - begin) * i) / 4))))),
    legend(),
    more('day', lines.length, 2 * FEW));
}

const HEIGHTS = { ok: 3, starting: 3, unknown: 6, failing: 11, recovering: 11, failed: 18, away: 18 };
const height = (state) => HEIGHTS[state] ?? HEIGHTS.unknown;

const hour = (at) => new Date(at).toTimeString().slice(0, 5);

function past({ key, name, subject, check, parts }, away, begin, end) {
  const failures = parts.filter(({ state }) => state === 'failed');
  const unseen = ({ from, to }) => away.reduce((sum, gap) => sum + Math.max(0, Math.min(to, gap.to) - Math.max(from, gap.from)), 0);
  const spent = failures.reduce((sum, part) => sum + part.to - part.from - unseen(part), 0) / 1000;
  const last = failures.at(-1);
  const when = last && `last from ${hour(last.from)} to ${last.to >= end ? 'now' : hour(last.to)}`;
  const sum = last ? `failed ${failures.length === 1 ? 'once' : `${failures.length} times`}, ${span(spent)}` : 'no failure seen';
  const label = check ? lead({ ...check, state: 'failed' }) : capital(subject ? `${words(name)} ${subject}` : words(name));
  const scale = (at) => Math.round(((at - begin) / (end - begin)) * 2880) / 2;
  const bar = ({ state, from, to }) =>
    h('rect', {
      key: `${state} ${from}`, class: `f-${state}`, x: scale(Math.max(from, begin)), width: Math.max(1.5, scale(to) - scale(Math.max(from, begin))),
      y: 18 - height(state), height: height(state),
    }, h('title', {}, `${state === 'away' ? 'nobody watched' : says(state)} ${clock(from)} to ${clock(to)} (${span((to - from) / 1000)})`));
  const rects = [...parts, ...away.filter(({ to }) => to > begin)].map(bar);
  return h('div', { class: 'line', key },
    h('span', { class: 'name' }, chosen(label)),
    h('svg', { viewBox: '0 0 1440 18', preserveAspectRatio: 'none', role: 'img', 'aria-label': `${label}: ${[sum, when].filter(Boolean).join(', ')}` }, rects),
    h('span', { class: 'sum' }, sum, when && h('br', {}), when));
}

function legend() {
  const swatch = (state, text) => [
    h('svg', { key: state, viewBox: '0 0 14 18', 'aria-hidden': 'true' },
      state === 'away' && h('defs', {}, h('pattern', { id: 'away', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
        h('rect', { width: 2, height: 6, class: 'f-unknown' }))),
      h('rect', { class: `f-${state}`, y: 18 - HEIGHTS[state], width: 14, height: HEIGHTS[state] })),
    text,
  ];
  return h('p', { class: 'legend' },
    swatch('failed', 'failed'), swatch('failing', 'bad or recovering'), swatch('unknown', 'unknown'), swatch('ok', 'ok'), swatch('away', 'nobody watched'));
}

// ---- Tables ------------------------------------------------------------------------------------------------------

/** `columns`: `{head, cell(row), num, sort}`; the first is the row's heading. */
function table(name, caption, columns, rows, keyOf) {
  const shown = rows.slice(0, view.all.has(name) ? Infinity : ROWS);
  const cell = (column, row, i) => {
    const text = column.cell(row);
    const label = typeof column.head === 'string' ? column.head.toLowerCase() : null;
    if (i === 0) return h('th', { scope: 'row' }, text);
    return h('td', { class: [column.num && 'num', text === UNKNOWN && 'none'].filter(Boolean).join(' ') || null, 'data-label': label }, text);
  };
  return [
    h('div', { class: 'scroll', key: `${name} rows` },
      h('table', { class: 'rows' },
        h('caption', {}, caption),
        h('thead', {}, h('tr', {}, columns.map((column) => heading(name, column)))),
        h('tbody', {}, shown.map((row) => once('tr', { key: keyOf(row), class: row.isSub ? 'sub' : null }, [columns.map(({ head, num }) => [head, num]), row], () => columns.map((column, i) => cell(column, row, i))))))),
    more(name, rows.length),
  ];
}

function heading(name, { head, num, sort }) {
  const kind = num ? 'num' : null;
  if (!sort) return h('th', { scope: 'col', class: kind }, head);
  const { key, down } = view.sort;
  const turn = () => {
    view.sort = { key: sort, down: key === sort ? !down : true };
    draw();
  };
  const order = key === sort ? (down ? 'descending' : 'ascending') : null;
  const arrow = key === sort ? (down ? ' ↓' : ' ↑') : '';
  return h('th', { scope: 'col', class: kind, 'aria-sort': order }, h('button', { type: 'button', on: { click: turn } }, head + arrow));
}

function more(name, length, first = ROWS) {
  if (length <= first) return null;
  const all = view.all.has(name);
  const turn = () => {
    all ? view.all.delete(name) : view.all.add(name);
    draw();
  };
  return h('button', { class: 'more', type: 'button', key: `${name} more`, on: { click: turn } }, all ? `Show the first ${first}` : `Show ${count(length - first)} more`);
}

const facts = (entries) =>
  h('dl', { class: 'facts' }, entries.filter((entry) => entry && entry[1] !== undefined).map(([name, value]) => h('div', { key: name }, h('dt', {}, name), h('dd', {}, value ?? UNKNOWN))));

// ---- Sections ----------------------------------------------------------------------------------------------------

function spark(values) {
  const known = (values ?? []).filter((value) => value !== null);
  if (known.length < 2) return null;
  const top = Math.max(...known) || 1;
  const x = (i) => ((i / (values.length - 1)) * 70 + 1).toFixed(1);
  const y = (value) => (16.5 - (value / top) * 15).toFixed(1);
  let pen = 'M';
  const path = values.map((value, i) => {
    if (value === null) pen = 'M';
    else {
      const step = `${pen}${x(i)} ${y(value)}`;
      pen = 'L';
      return step;
    }
    return '';
  });
  return h('svg', { class: 'spark', viewBox: '0 0 72 18', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, h('path', { d: path.join('') }));
}

const CLASSES = { zombie: 's-failed', orphan: 's-failed', leaked: 's-failed', duplicate: 's-failing', unregistered: 's-failing', busy: 's-calm', idle: 's-unknown' };

const WORKER_KEYS = {
  cpu: (row) => row.cpu_percent, memory: (row) => row.rss_bytes, idle: (row) => row.idle_seconds, up: (row) => row.uptime_seconds,
};

function sorted(rows) {
  const of = WORKER_KEYS[view.sort.key];
  const sign = view.sort.down ? -1 : 1;
  // What is not known comes last, whichever way.
  const order = (a, b) => (of(a) === null) - (of(b) === null) || sign * (of(a) - of(b)) || a.pid - b.pid;
  return [...rows].sort(order);
}

function workers({ processes, totals, host, limits, registry }) {
  const recent = view.recent?.processes ?? {};
  const badge = (row) => h('span', { class: `tag ${CLASSES[row.class] ?? 's-unknown'}` }, row.class ?? 'unknown');
  const columns = [
    { head: 'Worker', cell: (row) => [row.kind, ' ', h('span', { class: 'soft' }, row.container ?? row.pid, row.cwd && ` in ${row.cwd}`)] },
    { head: 'Class', cell: badge },
    { head: 'CPU', sort: 'cpu', num: true, cell: (row) => plain('cpu_percent', row.cpu_percent) },
    { head: 'CPU lately', num: true, cell: (row) => spark(row.lately) ?? UNKNOWN },
    { head: 'Memory', sort: 'memory', num: true, cell: (row) => plain('rss_bytes', row.rss_bytes) },
    { head: 'Idle', sort: 'idle', num: true, cell: (row) => (row.idle_seconds === null ? UNKNOWN : span(row.idle_seconds)) },
    { head: 'Up', sort: 'up', num: true, cell: (row) => (row.uptime_seconds === null ? UNKNOWN : span(row.uptime_seconds)) },
    { head: 'Children', num: true, cell: (row) => plain('', row.children) },
    { head: 'Files', num: true, cell: (row) => plain('', row.fds) },
  ];
  const said = Object.entries(totals).filter(([, n]) => n).map(([name, n]) => `${n} ${name}`);
  return {
    wide: processes.length > 0,
    body: [
      h('p', { class: 'note' }, said.join(', ') || 'No worker is seen.', host.reason && ` ${host.reason}`),
      limits.length > 0 && h('ul', { class: 'note' }, limits.map((limit) => h('li', {}, limit))),
      processes.length > 0 && table('workers', 'Workers', columns, sorted(processes).map((row) => ({ ...row, lately: recent[row.container ?? row.pid]?.cpu_percent })), (row) => row.container ?? `${row.pid}`),
      registry && h('p', { class: 'note' }, 'The host’s own list: ', plain('', registry)),
    ],
  };
}

/** What of a tree somebody should know. */
function plight(tree) {
  if (tree.error) return h('span', { class: 's-failed' }, `broken: ${tree.error}`);
  const said = [
    tree.conflict && h('span', { class: 's-failed', key: 'conflict' }, tree.unmerged ? `conflict in ${plural(tree.unmerged, 'file')}` : 'conflict'),
    tree.operation && h('span', { class: 's-failing', key: 'operation' }, `${tree.operation} unfinished`),
    tree.dirty && 'dirty', tree.detached && 'detached', tree.locked && 'locked', tree.stashes > 0 && plural(tree.stashes, 'stash', 'stashes'),
  ].filter(Boolean);
  if (!said.length) return tree.dirty === false ? 'clean' : UNKNOWN;
  return said.flatMap((one, i) => (i ? [', ', one] : [one]));
}

const urgency = (tree) => (tree.error ? 0 : tree.conflict ? 1 : tree.operation ? 2 : tree.dirty ? 3 : tree.behind || tree.ahead ? 4 : 5);

function repos(all) {
  const worst = ([, repo]) => Math.min(...[repo, ...Object.values(repo.worktrees ?? {})].map(urgency));
  const rows = Object.entries(all).sort((a, b) => worst(a) - worst(b)).flatMap(([name, repo]) => [
    { ...repo, name, key: name, ahead: repo.unpushed_commits ?? null },
    ...Object.entries(repo.worktrees ?? {})
      .map(([tree, found]) => ({ ...found, name: tree, key: `${name} ${tree}`, isSub: true }))
      .sort((a, b) => urgency(a) - urgency(b) || (a.name < b.name ? -1 : 1)),
  ]);
  const columns = [
    { head: 'Repository', cell: (row) => row.name },
    { head: 'Branch', cell: (row) => row.branch ?? (row.detached ? 'detached' : UNKNOWN) },
    { head: 'Ahead', num: true, cell: (row) => plain('', row.ahead) },
    { head: 'Behind', num: true, cell: (row) => plain('', row.behind) },
    { head: 'State', cell: plight },
    { head: 'Commit', cell: (row) => plain('sha', row.sha ?? row.head_sha) },
    { head: 'Looked at', num: true, cell: (row) => moment(row.status_at) },
  ];
  return { wide: rows.length > 0, body: rows.length ? table('repos', 'Repositories and their worktrees', columns, rows, (row) => row.key) : [h('p', { class: 'note' }, 'None is configured.')] };
}

const every = ({ schedule_type, schedule_value }) => {
  const milliseconds = schedule_type === 'interval' ? Number(schedule_value) : NaN;
  return milliseconds > 0 ? `every ${span(milliseconds / 1000)}` : `${schedule_type} ${schedule_value ?? ''}`;
};

function jobs(name, caption, rows) {
  const state = (row) => {
    if (row.overdue) return h('span', { class: 's-failed' }, 'overdue');
    if (row.stuck) return h('span', { class: 's-failed' }, 'stuck');
    if (row.failing) return h('span', { class: 's-failing' }, 'failing');
    return row.enabled === false ? 'off' : (row.status ?? UNKNOWN);
  };
  const outcome = ({ last_result, runs }) => last_result ?? (runs ? `${count(runs.success)} ok, ${count(runs.error)} failed` : UNKNOWN);
  const weight = (row) => (row.overdue || row.stuck ? 0 : row.failing ? 1 : row.status === 'active' && row.enabled !== false ? 2 : 3);
  const columns = [
    { head: 'Name', cell: (row) => [row.name ?? row.id, row.group && h('span', { class: 'soft' }, ` ${row.group}`)] },
    { head: 'State', cell: state },
    { head: 'Runs', cell: every },
    { head: 'Next', num: true, cell: (row) => moment(row.next_run) },
    { head: 'Last', num: true, cell: (row) => moment(row.last_run) },
    { head: 'Outcome', cell: outcome },
  ];
  const list = [...rows].sort((a, b) => weight(a) - weight(b));
  return { wide: rows.length > 0, body: rows.length ? table(name, caption, columns, list, (row) => row.id) : [h('p', { class: 'note' }, 'There is none.')] };
}

function usage({ groups }) {
  const rows = Object.entries(groups).map(([name, group]) => ({ name, ...group }));
  const total = (of) => rows.map(of).filter((value) => value !== null && value !== undefined).reduce((sum, value) => sum + value, 0);
  const columns = [
    { head: 'Group', cell: (row) => row.name },
    { head: 'Cost', num: true, cell: (row) => plain('cost_usd', row.cost_usd) },
    { head: 'Runs', num: true, cell: (row) => plain('', row.runs) },
    { head: 'Failed', num: true, cell: (row) => plain('', row.run_errors) },
    { head: 'Turns', num: true, cell: (row) => plain('', row.turns) },
    { head: 'Tokens in', num: true, cell: (row) => plain('', row.tokens?.input) },
    { head: 'out', num: true, cell: (row) => plain('', row.tokens?.output) },
    { head: 'from cache', num: true, cell: (row) => plain('', row.tokens?.cache_read) },
    { head: 'Tool calls', num: true, cell: (row) => plain('', row.tool_calls) },
  ];
  const known = rows.some((row) => row.cost_usd !== null);
  return {
    wide: rows.length > 0,
    body: [
      h('p', { class: 'note' }, `${known ? dollars(total((row) => row.cost_usd)) : 'Cost unknown'} in ${plural(total((row) => row.runs), 'run')}, as far as the database goes back.`),
      rows.length > 0 && table('usage', 'Usage by group', columns, rows, (row) => row.name),
    ],
  };
}

function messages({ groups, ...rest }) {
  const rows = Object.entries(groups ?? {}).map(([name, group]) => ({ name, ...group }));
  const some = (n, text) => (n ? h('span', { class: text }, count(n)) : plain('', n));
  const columns = [
    { head: 'Group', cell: (row) => row.name },
    { head: 'Unanswered', num: true, cell: (row) => plain('', row.unanswered) },
    { head: 'Oldest', num: true, cell: (row) => moment(row.oldest_unanswered_at) },
    { head: 'Not taken up', num: true, cell: (row) => plain('', row.unprocessed) },
    { head: 'Received', num: true, cell: (row) => moment(row.last_received_at) },
    { head: 'Sent', num: true, cell: (row) => moment(row.last_sent_at) },
  ];
  return {
    wide: rows.length > 0,
    body: [
      facts([
        ['Received', [plain('', rest.total_inbound), ', last ', moment(rest.last_received_at)]],
        ['Sent', [plain('', rest.total_outbound), ', last ', moment(rest.last_sent_at)]],
        ['Deliveries', [plain('', rest.pending_deliveries), ' waiting, ', some(rest.erroring_deliveries, 's-failed'), ' refused']],
      ]),
      rows.length > 0 && table('messages', 'Messages by group', columns, rows, (row) => row.name),
    ],
  };
}

function channels(all) {
  const rows = Object.entries(all);
  const line = ([name, channel]) => [name, [
    channel.contradicted ? h('span', { class: 's-failing' }, 'contradicted, ') : '',
    channel.connected === false ? h('span', { class: 's-failed' }, channel.status ?? 'disconnected') : (channel.status ?? (channel.connected === null ? 'unknown' : 'connected')),
    ' ', h('span', { class: 'soft' }, moment(channel.since, 'for')),
  ]];
  return { body: [rows.length ? facts(rows.map(line)) : h('p', { class: 'note' }, 'None is configured.')] };
}

function gateway(one) {
  const models = Object.entries(one.models ?? {});
  const containers = Object.entries(one.containers ?? {});
  const yes = (value, good, bad) => (value === null ? UNKNOWN : value === true ? good : h('span', { class: 's-failed' }, bad));
  return {
    body: [
      facts([
        ['Kind', one.mode], ['Answers', [yes(one.up, 'yes', 'no'), one.response_seconds !== null ? `, in ${brief(one.response_seconds)}` : '']],
        ['Can serve', yes(one.ready, 'yes', 'no')],
        one.reason && ['Because', one.reason],
        one.database !== null && ['Database', one.database === 'connected' ? 'connected' : h('span', { class: 's-failed' }, words(String(one.database)))],
        one.configured_models !== null && ['Models', count(one.configured_models)],
        one.healthy_models !== null && ['Healthy', [count(one.healthy_models), one.unhealthy_models ? [', ', h('span', { class: 's-failing' }, `${count(one.unhealthy_models)} not`)] : '', ' ', h('span', { class: 'soft' }, moment(one.models_at))]],
        one.spend_usd !== null && ['Spend', dollars(one.spend_usd)],
        ...containers.map(([name, container]) => [name, container.state]),
      ]),
      models.length > 0 && [h('h4', {}, 'Models'), facts(models.map(([name, { healthy, unhealthy }]) => [name, unhealthy ? h('span', { class: 's-failing' }, healthy ? `${unhealthy} of ${healthy + unhealthy} unhealthy` : 'unhealthy') : healthy ? 'healthy' : UNKNOWN]))],
    ],
  };
}

function queue({ active_containers, max_concurrent, groups_waiting, oldest_wait_seconds, per_group }) {
  const groups = Object.entries(per_group ?? {}).filter(([, group]) => group.active || group.pending_messages || group.pending_tasks);
  const says = (group) => [group.active && (group.is_task ? 'at a task' : 'at work'), group.pending_messages && 'messages wait', group.pending_tasks > 0 && `${plural(group.pending_tasks, 'task')} waiting`].filter(Boolean).join(', ');
  return {
    body: [facts([
      ['Agents at work', max_concurrent === null ? plain('', active_containers) : `${plain('', active_containers)} of ${max_concurrent}`],
      ['Groups waiting', plain('', groups_waiting)], ['Longest wait', plain('wait_seconds', oldest_wait_seconds)],
      ...groups.map(([name, group]) => [name, says(group)]),
    ])],
  };
}

function service(one) {
  const { resources } = one;
  return {
    body: [facts([
      ['Status', ['ok', 'running'].includes(one.status) ? one.status : h('span', { class: 's-failing' }, words(one.status ?? 'unknown'))],
      ['Up', one.started_at ? [moment(one.started_at, 'for')] : UNKNOWN],
      one.api && ['Answers', one.api.answered ? (one.api.response_seconds === null ? 'yes' : `in ${brief(one.api.response_seconds)}`) : h('span', { class: 's-failed' }, one.api.error ?? 'no')],
      ['Starts last hour', plain('', one.starts_last_hour)],
      ['Process', one.pid === null ? (one.process_error ?? words(String(one.process))) : String(one.pid)],
      resources && ['Memory', plain('bytes', resources.resident_bytes)],
      resources && ['Open files', plain('', resources.open_fds)],
      resources && ['Threads', plain('', resources.threads)],
      one.health?.failing?.length && ['Says failing', one.health.failing.join(', ')],
    ])],
  };
}

function deploy(one) {
  return {
    body: [facts([
      ['Commit', [plain('sha', one.head_sha), ' ', h('span', { class: 'soft' }, one.head_commit)]],
      ['Branch', one.branch ?? (one.detached ? 'detached' : UNKNOWN)], ['State', plight(one)],
      ['Deployed', moment(one.last_deploy_at)], ['Drift', one.drift === null ? UNKNOWN : one.drift ? h('span', { class: 's-failing' }, 'yes') : 'no'],
      one.database_error && ['Database', one.database_error],
    ])],
  };
}

/** Any section, by its shape. */
function generic(name, value) {
  if (Array.isArray(value)) return { wide: true, body: listed(name, value.map((row, i) => [row?.name ?? row?.id ?? String(i + 1), row])) };
  if (typeof value !== 'object') return { body: [h('p', {}, plain(name, value))] };
  const entries = Object.entries(value);
  const isTable = (one) => one !== null && typeof one === 'object' && !Array.isArray(one);
  if (entries.length > 0 && entries.every(([, one]) => isTable(one))) return { wide: width(value) > 4, body: listed(name, entries) };
  const nested = entries.filter(([, one]) => isTable(one) && Object.values(one).some(isTable) && Object.keys(one).length);
  const lists = entries.filter(([, one]) => Array.isArray(one) && one.some(isTable));
  const apart = new Set([...nested, ...lists].map(([key]) => key));
  const below = [...nested.map(([key, one]) => [key, Object.entries(one)]), ...lists.map(([key, one]) => [key, one.map((row, i) => [row?.name ?? row?.id ?? String(i + 1), row])])];
  return {
    wide: below.some(([, rows]) => rows.length && rows.some(([, row]) => isTable(row) && Object.keys(row).length > 4)),
    body: [
      facts(entries.filter(([key]) => !apart.has(key)).map(([key, one]) => [title(key), plain(key, one)])),
      below.map(([key, rows]) => [h('h4', { key: `${key} head` }, title(key)), listed(`${name} ${key}`, rows)]),
    ],
  };
}

const width = (object) => Math.max(...Object.values(object).map((one) => Object.keys(one).length));

function listed(name, entries) {
  if (!entries.length) return [h('p', { class: 'note' }, 'There is none.')];
  const keys = [...new Set(entries.flatMap(([, row]) => (row && typeof row === 'object' ? Object.keys(row) : [])))].filter((key) => key !== 'name' && key !== 'id');
  const used = keys.filter((key) => entries.some(([, row]) => row?.[key] !== null && row?.[key] !== undefined)).slice(0, 9);
  const columns = [
    { head: 'Name', cell: ([key]) => key },
    ...used.map((key) => ({ head: title(key), num: entries.every(([, row]) => typeof row?.[key] === 'number' || row?.[key] == null), cell: ([, row]) => plain(key, row?.[key]) })),
  ];
  return table(name, title(name), columns, entries, ([key]) => key);
}

const KNOWN = {
  service, deploy, channels, gateway, queue, repos, messages, usage, workers,
  tasks: (rows) => jobs('tasks', 'Scheduled tasks', rows),
  host_jobs: (rows) => jobs('host_jobs', 'Jobs of the host', rows),
};
const APART = new Set(['health', 'collectors', 'schema', 'sidecar']);

function card(name, value, status) {
  const collector = status.collectors[name] ?? {};
  const { wide, body } = value === null ? { body: [blind(collector)] } : drawn(name, value);
  const states = status.health.checks.filter((check) => check.collector === name).map((check) => check.state);
  const worst = WORST.find((state) => states.includes(state));
  const missed = value !== null && collector.up === false && h('p', { class: 'note s-failed', key: 'missed' }, `The latest look failed: ${collector.error}`);
  return h('section', { class: `card${wide ? ' wide' : ''}`, id: name, key: name },
    h('header', {}, h('h3', {}, worst && mark(worst), title(name)),
      h('span', { class: 'age' }, collector.last_success_at ? ['seen ', moment(collector.last_success_at)] : 'never seen')),
    missed, body);
}

/** A section whose shape is not the expected one is drawn by its shape: one that has changed must not take the page along. */
function drawn(name, value) {
  const known = KNOWN[name] && guarded(name, () => KNOWN[name](value));
  if (known) return known;
  return guarded(name, () => generic(name, value)) ?? { body: [h('p', { class: 'note' }, 'It cannot be drawn: ', h('a', { href: `/status?section=${name}` }, 'read it as JSON'), '.')] };
}

function guarded(name, make) {
  try {
    return make();
  } catch (error) {
    console.warn(name, error);
    return null;
  }
}

function blind({ up, access, error }) {
  if (up === undefined || up === null) return h('p', { class: 'note' }, 'Not looked at yet.');
  if (access === 'denied') return h('p', { class: 'note s-failed' }, `The sidecar may not look: ${error}`);
  return h('p', { class: 'note s-failed' }, error ?? 'Nothing fresh is known.');
}

function parts(status) {
  const names = Object.keys(status).filter((name) => !APART.has(name));
  const cards = names.map((name) => card(name, status[name], status));
  const isWide = (one) => one.attributes.class.includes('wide');
  return h('section', { key: 'parts' }, h('h2', {}, 'Every part'),
    h('div', { class: 'cards' }, [...cards.filter((one) => !isWide(one)), ...cards.filter(isWide)]));
}

// ---- What cannot be seen -----------------------------------------------------------------------------------------

const denied = (status) => Object.entries(status.collectors).filter(([, one]) => one.access === 'denied');

function unseen(status) {
  const all = Object.entries(status.collectors);
  const failed = all.filter(([, one]) => one.up === false);
  const partly = all.filter(([, one]) => one.gaps?.length);
  const { notes } = status.sidecar.host;
  if (!failed.length && !partly.length && !notes.length) return null;
  const isExcused = (name) => status.health.checks.some((check) => check.collector === name && check.unknown_cause === 'excused');
  const line = ([name, { access, error, last_success_at }]) =>
    h('li', { key: name }, mark(access === 'denied' || isExcused(name) ? 'unknown' : 'failed'),
      h('div', {}, h('h3', {}, title(name), ' ', h('span', { class: 'soft' }, access === 'denied' ? 'the sidecar may not look' : 'the latest look failed', last_success_at ? [', last seen ', moment(last_success_at)] : ', never seen')),
        h('p', {}, error)));
  const gap = ([name, { gaps }]) =>
    h('li', { key: name }, mark('unknown'),
      h('div', {}, h('h3', {}, title(name), ' ', h('span', { class: 'soft' }, 'the sidecar may not look at all of it')),
        gaps.slice(0, FEW).map((text) => h('p', { key: text }, text)),
        gaps.length > FEW && h('p', { key: 'more' }, `And ${plural(gaps.length - FEW, 'more', 'more')}, in /status.`)));
  return h('section', { key: 'unseen' }, h('h2', {}, 'What cannot be seen'),
    h('ul', { class: 'wrong' }, failed.map(line), partly.map(gap), notes.map((note) => h('li', { key: note }, mark('unknown'), h('div', {}, h('p', {}, note))))));
}

function checks(status) {
  const columns = [
    { head: 'Check', cell: (check) => [mark(check.state), words(check.check)] },
    { head: 'Subject', cell: (check) => check.subject || UNKNOWN },
    { head: 'State', cell: (check) => SAYS[check.state] },
    { head: 'Since', num: true, cell: (check) => moment(check.since, 'for') },
    { head: 'Severity', cell: (check) => check.severity },
    { head: 'Bad', num: true, cell: (check) => `${check.bad} of ${check.observed}` },
    { head: 'Rule', cell: (check) => check.rule },
  ];
  const all = status.health.checks;
  return h('section', { key: 'checks' }, h('h2', {}, 'Every check'),
    h('details', {}, h('summary', {}, plural(all.length, 'check')), table('checks', 'Checks', columns, all, (check) => `${check.check}/${check.subject}`)));
}

function bottom({ sidecar }) {
  const link = (href, text = href) => h('li', { key: href }, h('a', { href }, text));
  return h('footer', { key: 'bottom' }, h('ul', {},
    h('li', { key: 'version' }, `agenthost-exporter ${sidecar.version}, running for `, moment(sidecar.started_at, 'for')),
    link('/metrics'), link('/status'), link('/readyz?verbose'), document.body.dataset.profiler && link(document.body.dataset.profiler)));
}

/** The verdict without what changes by the second, for who listens to the page. */
function said({ health }) {
  if (view.lost) return view.lost.reached ? 'No status from the sidecar' : 'Lost the sidecar';
  if (view.stuck) return 'The sidecar itself stands still';
  const [, word] = FACES[health.overall] ?? ['', health.overall];
  const [first] = reasons(health);
  return first ? `${word}: ${headline(first)}` : word;
}

function top({ sidecar }) {
  const { profile, root } = sidecar.host;
  const live = document.hidden ? 'paused' : Date.now() - view.heardAt < 3 * EVERY ? 'live' : 'no answer';
  return h('header', { class: 'top', key: 'top' },
    h('p', { class: 'host' }, profile, ' ', root && h('span', {}, root)),
    h('p', { class: 'live' }, `${live}, read `, moment(view.heardAt + view.offset, 'lately'), ' ago'));
}

// ---- Drawing and asking ------------------------------------------------------------------------------------------

const page = document.getElementById('page');

function draw() {
  const { status } = view;
  const begun = performance.now();
  if (!page.known) page.replaceChildren(); // what stood there before the first answer
  page.known = {};
  if (!status) {
    if (view.lost) fit(page, [h('main', {}, h('section', { class: 'verdict is-lost', key: 'verdict' }, h('h1', {}, view.lost.reached ? 'The sidecar gives this page no status' : 'The sidecar does not answer'), h('p', {}, view.lost.why)))]);
    return;
  }
  const [face] = view.lost || view.stuck ? ['?'] : (FACES[status.health.overall] ?? ['?']);
  document.title = straight(`${document.hidden ? 'Paused, was ' : ''}${face} ${said(status)} – ${status.sidecar.host.profile}`);
  const main = h('main', { key: 'main' }, verdict(status),
    h('div', { key: 'rest', class: view.lost || view.stuck ? 'stale' : null }, wrong(status), guarded('history', () => timeline(status)), parts(status), unseen(status), checks(status)));
  fit(page, [h('p', { class: 'hidden', role: 'status', key: 'said' }, said(status)), top(status), main, bottom(status)]);
  performance.clearMeasures('draw'); // one is enough for who wants to know how long it takes
  performance.measure('draw', { start: begun });
  if (!performance.getEntriesByName('first data').length) performance.mark('first data');
}

/** Lets all that is told relative to now grow older. */
function age() {
  for (const time of page.querySelectorAll('time')) {
    const text = spell(time.dataset.kind, Date.parse(time.dateTime));
    if (time.textContent !== text) time.firstChild.data = text;
  }
}

/** Why there is no status; `reached`: something answered. */
class Unheard extends Error {
  constructor(reached, why) {
    super(why);
    this.reached = reached;
  }
}

/** Nothing is new but that somebody answered. */
function same() {
  fit(page.querySelector('.top'), top(view.status).children);
  age();
}

async function ask(path, headers) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), PATIENCE);
  try {
    const answer = await fetch(path, { headers, cache: 'no-store', signal: stop.signal });
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  } catch {
    throw new Unheard(false, stop.signal.aborted ? `It takes longer than ${PATIENCE / 1000} s to answer` : 'It cannot be reached');
  } finally {
    clearTimeout(timer);
  }
}

const REFUSALS = {
  401: 'It asks who you are: open this page with ?token= once more, or load it anew and log in',
  429: 'It is asked too often, by its own rate_limit',
};

function parsed({ status, text }) {
  if (status !== 200) throw new Unheard(true, REFUSALS[status] ?? `It answers ${status}`);
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Unheard(true, 'What answers at this address gives no JSON: it may be somebody else');
  }
  return value;
}

/** Reads /status; says whether it is another than before. */
async function look() {
  const answer = await ask('/status', view.tag ? { 'If-None-Match': view.tag } : {});
  if (answer.status !== 304) {
    const status = parsed(answer);
    if (!status?.health?.checks || !status.collectors || !status.sidecar?.host) throw new Unheard(true, 'Its answer is not what this page knows');
    // Another version has another page.
    if (view.status && view.status.sidecar.version !== status.sidecar.version) location.reload();
    Object.assign(view, { status, tag: answer.headers.get('ETag'), changedAt: Date.now() });
  }
  const ahead = Date.parse(answer.headers.get('Date') ?? '') - Date.now();
  // Whole seconds: a smaller difference is none.
  if (!Number.isNaN(ahead)) view.offset = Math.abs(ahead) > 2000 ? ahead : 0;
  view.heardAt = Date.now();
  return answer.status !== 304;
}

/** What is asked only when it has changed; says whether it has. Without it the page still stands. */
async function beside({ health, collectors, workers }) {
  const states = JSON.stringify(health.checks.map(({ check, subject, state }) => [check, subject, state]));
  const looked = workers ? collectors.workers.last_success_at : null;
  const [history, recent] = [view.historyOf !== states, looked !== view.recentOf];
  if (history) Object.assign(view, { history: parsed(await ask('/status?section=history')), historyOf: states });
  if (recent && looked) Object.assign(view, { recent: parsed(await ask('/status/workers/recent')), recentOf: looked });
  return history || recent;
}

/** The first answer, and one that stays the same for long, may come from a sidecar that has stopped looking. */
async function alive(isFirst) {
  const isDoubtful = isFirst || view.stuck || Date.now() - view.changedAt > 30000;
  view.stuck = isDoubtful && (await ask('/livez')).status !== 200;
}

async function turn() {
  try {
    const isFirst = !view.status;
    const { lost, stuck } = view;
    const changed = await look();
    await alive(isFirst);
    Object.assign(view, { lost: null, failures: 0 });
    changed || lost || stuck !== view.stuck ? draw() : same();
  } catch (error) {
    if (!(error instanceof Unheard)) throw error;
    miss(error);
    draw();
    return;
  }
  aside();
}

/** Asks for the rest, one at a time; nothing waits for it. */
function aside() {
  if (view.isAsking) return;
  view.isAsking = true;
  const asked = beside(view.status).catch(() => false);
  asked.then((changed) => changed && draw()).catch(broken).finally(() => {
    view.isAsking = false;
  });
}

function miss({ message: why, reached }) {
  view.failures += 1;
  if (view.failures < LOST_AFTER && view.status) return;
  view.heardAt ??= Date.now();
  view.lost = { since: view.lost?.since ?? Date.now() + view.offset, why, reached };
  view.tag = null; // another process may count its documents anew
}

/** A page that cannot draw says so, and goes on trying. */
function broken(error) {
  console.error(error);
  view.tag = null; // so that it tries again
  document.title = '? This page cannot draw';
  const link = (href) => h('li', { key: href }, h('a', { href }, href));
  fit(page, [h('main', { key: 'broken' }, h('section', { class: 'verdict is-lost' },
    h('h1', {}, 'This page cannot draw what it has read'), h('p', {}, `A defect of it: ${error}. The same without it:`),
    h('ul', {}, ['/readyz?verbose', '/status', '/metrics'].map(link))))]);
}

let wake = () => {};
document.addEventListener('visibilitychange', () => {
  if (document.hidden && view.status) draw();
  wake();
});

async function run() {
  for (;;) {
    if (!document.hidden) await turn().catch(broken);
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(() => document.hidden || resolve(), EVERY);
    });
  }
}

/** Between answers all grows older; one that lets itself be waited for is told. */
setInterval(() => {
  if (document.hidden || !view.status) return;
  Date.now() - view.heardAt < 3 * EVERY ? age() : draw();
}, 1000);
run();
