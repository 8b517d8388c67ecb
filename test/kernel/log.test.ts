import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { expect, onTestFinished, test, vi } from 'vitest';
import { collected } from '#kernel/log.ts';

function collecting() {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const written: string[] = [];
  const { to, flush } = collected((lines) => void written.push(lines));
  const log = pino({ level: 'info' }, to);
  const messages = () => written.map((lines) => [...lines.matchAll(/"msg":"([^"]*)"/g)].map(([, msg]) => msg));
  return { log, flush, messages };
}

test('lines of a tenth of a second are one write', () => {
  const { log, flush, messages } = collecting();
  log.info('a');
  vi.advanceTimersByTime(60);
  log.info('b');
  expect(messages()).toEqual([]);
  vi.advanceTimersByTime(40);
  expect(messages()).toEqual([['a', 'b']]);
  vi.advanceTimersByTime(1000);
  log.info('c');
  flush();
  flush();
  expect(messages()).toEqual([['a', 'b'], ['c']]);
});

test.each(['warn', 'error', 'fatal'] as const)(
  'what is of level %s waits for nothing, and comes after the rest',
  (level) => {
    const { log, messages } = collecting();
    log.info('a');
    log[level]('b');
    expect(messages()).toEqual([['a', 'b']]);
    // The level of one line is not that of the next.
    log.info('c');
    expect(messages()).toHaveLength(1);
  },
);

test('nor do many lines', () => {
  const { log, messages } = collecting();
  for (let i = 0; i < 200; i++) log.info('x'.repeat(100));
  expect(messages().length).toBeGreaterThan(0);
  expect(messages().length).toBeLessThan(5);
});

test.each([
  ['ends', '', 0],
  ['is ended', 'process.exit(3)', 3],
  ['fails', 'throw new Error("no")', 1],
])('none is lost where a process %s', async (_, end, code) => {
  const log = fileURLToPath(new URL('../../src/kernel/log.ts', import.meta.url));
  const script = `import { createLogger } from ${JSON.stringify(log)};
    const log = createLogger('info');
    log.info('first'); log.child({ part: 'x' }).info('second'); log.info({ token: 'x' }, 'third'); ${end}`;
  const ran = promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
  const { stdout } = await ran.catch((error: unknown) => error as { stdout: string });
  expect(ran.child.exitCode).toBe(code);
  const lines = stdout.trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
  expect(lines.map(({ msg }) => msg)).toEqual(['first', 'second', 'third']);
  expect(lines[2]).toMatchObject({ level: 'info', token: '[redacted]' });
});
