import { expect, test } from 'vitest';
import { isAtLeastLevel, levelOf, logLevels, storedLevel, toLogLevel } from '../../../src/kernel/runs/log-level.ts';

test.for<[line: string, level: ReturnType<typeof levelOf>]>([
  // JSON: pino and bunyan by number, winston, zap and others by name, with colours or without.
  ['{"level":30,"time":1,"msg":"started"}', 'INFO'],
  ['{"name":"app","hostname":"h","pid":1,"level":50,"msg":"no","time":"2026-11-21T20:00:00Z","v":0}', 'ERROR'],
  ['{"level":60}', 'ERROR'],
  ['{"level":40}', 'WARN'],
  ['{"level":35}', 'INFO'],
  ['{"level":10}', 'DEBUG'],
  ['{"level":"warn","message":"x"}', 'WARN'],
  ['{"level":"\\u001b[31merror\\u001b[39m"}', 'ERROR'],
  ['{"severity":"NOTICE","message":"x"}', 'INFO'],
  ['{"levelname":"CRITICAL"}', 'ERROR'],
  ['{"req":{"level":60},"level":20}', 'DEBUG'],
  // What is no level of theirs is none: another scale, another type, a field of something else, a broken line.
  ['{"level":3}', null],
  ['{"level":"loud"}', null],
  ['{"level":null}', null],
  ['{"level":{"a":1}}', null],
  ['{"req":{"level":60}}', null],
  ['{"msg":"\\"level\\":50"}', null],
  ['{"level":50,"msg":"cut…', null],
  ['{"level":50,}', null],
  ['{"__proto__":{"level":50}}', null],
  // Markers.
  ['[error] it failed', 'ERROR'],
  ['[WARN]  careful', 'WARN'],
  ['ERROR it failed', 'ERROR'],
  ['ERROR', 'ERROR'],
  ['FATAL: no database', 'ERROR'],
  ['warning: LF will be replaced', 'WARN'],
  ['Error: Cannot find module', 'ERROR'],
  ['DEBUG\tmore', 'DEBUG'],
  ['npm warn deprecated inflight@1.0.6', 'WARN'],
  ['npm error code ENOENT', 'ERROR'],
  ['npm ERR! code ENOENT', 'ERROR'],
  ['npm notice', 'INFO'],
  ['\u001B[33mnpm\u001B[39m warn', null],
  ['npm \u001B[33mwarn\u001B[39m deprecated', 'WARN'],
  ['\u001B[31m[ERROR]\u001B[0m no', 'ERROR'],
  ['[\u001B[32mINFO\u001B[39m] yes', 'INFO'],
  ['<3>failed', 'ERROR'],
  ['<4>careful', 'WARN'],
  ['<7>more', 'DEBUG'],
  ['<165>1 2026-11-21T20:00:00Z host app', 'INFO'],
  ['<192>none', null],
  ['2026-11-21T20:00:00.123Z ERROR no', 'ERROR'],
  ['2026-11-21 20:00:00,123 WARN  careful', 'WARN'],
  ['[2026-11-21 20:00:00 +0000] [INFO] Listening', 'INFO'],
  ['time="2026-11-21T20:00:00Z" level=error msg=no', 'ERROR'],
  ['level=info msg=yes', 'INFO'],
  // Sentences, addresses, other boxes.
  ['Error handling is new', null],
  ['Information about it', null],
  ['ERRORS were found', null],
  ['no ERROR here', null],
  ['http://example.com/', null],
  ['[1/4] Resolving packages...', null],
  ['constructor: a word that every object has', null],
  ['[toString] another', null],
  ['npm install', null],
  ['Warn them', null],
  ['', null],
])('%s: %s', ([line, level]) => {
  expect(levelOf(line)).toBe(level);
});

test('a long hostile line costs no more than its length', () => {
  const started = performance.now();
  for (const piece of ['\u001B[', '[', '{"level":', 'time=', '2026-', 'ERROR', '\u001B[0m']) {
    levelOf(piece.repeat(16_000));
    levelOf(`{${piece.repeat(16_000)}}`);
  }
  // A regular expression that backtracks would take minutes.
  expect(performance.now() - started).toBeLessThan(20_000);
});

test('stored and back, and which is at least as severe', () => {
  for (const [index, level] of logLevels.entries()) {
    expect(toLogLevel(storedLevel(level))).toBe(level);
    expect(logLevels.filter((one) => isAtLeastLevel(one, level))).toEqual(logLevels.slice(0, index + 1));
    expect(isAtLeastLevel(null, level)).toBe(false);
  }
  expect([toLogLevel(null), toLogLevel(5), storedLevel(null)]).toEqual([null, null, null]);
});
