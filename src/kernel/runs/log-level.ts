/** How severe a line of output is, from the most severe on. */
export const logLevels = ['ERROR', 'WARN', 'INFO', 'DEBUG'] as const;
export type LogLevel = (typeof logLevels)[number];

/** As the database has them: the severities of syslog, so that a smaller number is a more severe one. @see RFC 5424, 6.2.1 */
const stored: Readonly<Record<LogLevel, number>> = { ERROR: 3, WARN: 4, INFO: 6, DEBUG: 7 };
export const storedLevel = (level: LogLevel | null): number | null => level && stored[level];
export const toLogLevel = (value: number | null): LogLevel | null =>
  logLevels.find((level) => stored[level] === value) ?? null;

/** Whether a line is that severe, or more. One without a level is not. */
export const isAtLeastLevel = (level: LogLevel | null, least: LogLevel): boolean =>
  level !== null && stored[level] <= stored[least];

/** What programs call their levels, in lower case. */
const names: ReadonlyMap<string, LogLevel> = new Map([
  ...of('ERROR', 'error err err! fatal critical crit alert emerg emergency panic severe'),
  ...of('WARN', 'warn warning'),
  ...of('INFO', 'info information notice'),
  ...of('DEBUG', 'debug trace verbose http silly'),
]);
function of(level: LogLevel, all: string): [string, LogLevel][] {
  return all.split(' ').map((name) => [name, level]);
}
const named = (name: string): LogLevel | null => names.get(name.toLowerCase()) ?? null;

const upper =
  'ERROR|ERR|FATAL|CRITICAL|CRIT|ALERT|EMERG|EMERGENCY|PANIC|SEVERE|WARN|WARNING|INFO|NOTICE|DEBUG|TRACE|VERBOSE';
/** Colours of a terminal. @see ECMA-48, 8.3.117 */
const colour = String.raw`(?:\u001B\[[\d;]*m)*`;
const colours = new RegExp(colour, 'g');
/**
 * A marker at the beginning, after a time in the form of ISO 8601 where there is one: `<3>`, `npm warn`, `level=warn`,
 * `[warn]`, `warn:`, or in capitals `WARN `. A word of a sentence is none: `Error handling is new`.
 */
const marker = new RegExp(
  String.raw`^${colour}(?:<(?<pri>\d{1,3})>|npm ${colour}(?<npm>\w+!?)${colour}(?: |$)|(?:time=\S+ )?(?:level|lvl)="?(?<pair>\w+)|` +
    String.raw`(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?\]?:? +)?${colour}` +
    String.raw`(?:\[${colour}(?<box>[A-Za-z]+)${colour}\]|(?<word>[A-Za-z]+)${colour}:(?!/)|(?<capitals>${upper})${colour}(?:\s|$)))`,
);

/** A marker ends within so many characters. Of a hostile line no more is looked at: what repeats costs its square. */
const markerChars = 256;

/** Numbers of pino and bunyan: 10 trace, 20 debug, 30 info, 40 warn, 50 error, 60 fatal; what lies between is the lesser one. */
function numbered(level: number): LogLevel | null {
  if (level >= 50) return 'ERROR';
  if (level >= 40) return 'WARN';
  if (level >= 30) return 'INFO';
  return level >= 10 ? 'DEBUG' : null;
}

function ofJson(text: string): LogLevel | null {
  let line: Readonly<Record<string, unknown>>;
  try {
    line = JSON.parse(text) as typeof line;
  } catch {
    return null; // text that looks like it
  }
  const level = line['level'] ?? line['severity'] ?? line['levelname'];
  if (typeof level === 'number') return numbered(level);
  return typeof level === 'string' ? named(level.replaceAll(colours, '')) : null;
}

/**
 * The level that a line of a program's output tells of itself: a line of JSON by its `level` (`severity`, `levelname`) as
 * pino, bunyan, winston and others write it, any other by a usual marker at its beginning. Null: it tells none, and none
 * is made up.
 */
export function levelOf(text: string): LogLevel | null {
  if (text.startsWith('{') && text.endsWith('}'))
    return /"(?:level|severity|levelname)"/.test(text) ? ofJson(text) : null;
  const found = marker.exec(text.slice(0, markerChars))?.groups;
  if (!found) return null;
  const { pri, npm, pair, box, word, capitals } = found;
  if (pri === undefined) return named(npm ?? pair ?? box ?? word ?? capitals ?? '');
  if (Number(pri) > 191) return null;
  // Facility and severity. @see RFC 5424, 6.2.1
  const severity = Number(pri) % 8;
  return severity <= 3 ? 'ERROR' : severity === 4 ? 'WARN' : severity <= 6 ? 'INFO' : 'DEBUG';
}
