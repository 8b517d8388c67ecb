import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import {
  currentTraceparent,
  exporterPackages,
  formatTraceparent,
  parseTraceparent,
  startTelemetry,
  withTrace,
} from '#kernel/telemetry/trace.ts';

const traceId = '0af7651916cd43dd8448eb211c80319c';
const spanId = 'b7ad6b7169203331';
const header = `00-${traceId}-${spanId}-01`;

describe('traceparent', () => {
  it('reads and writes', () => {
    expect(parseTraceparent(header)).toEqual({ traceId, spanId, flags: 1 });
    expect(formatTraceparent({ traceId, spanId, flags: 1 })).toBe(header);
    expect(parseTraceparent(`00-${traceId}-${spanId}-fe`)?.flags).toBe(0);
    expect(parseTraceparent(`cc-${traceId}-${spanId}-01-what-the-future-will-be`)?.traceId).toBe(traceId);
  });

  it.each([
    undefined,
    '',
    'x',
    `00-${traceId}-${spanId}`,
    `00-${traceId}-${spanId}-01-more`,
    `00-${traceId}-${spanId}-01-`,
    `ff-${traceId}-${spanId}-01`,
    `cc-${traceId}-${spanId}-01.x`,
    `00-${'0'.repeat(32)}-${spanId}-01`,
    `00-${traceId}-${'0'.repeat(16)}-01`,
    header.toUpperCase(),
    ` ${header}`,
    `${header}\n`,
    `00-${traceId.slice(1)}-${spanId}-01`,
    `00-${traceId}-${spanId}g-01`,
    `${header},${header}`,
  ])('ignores %j', (text) => {
    expect(parseTraceparent(text)).toBeUndefined();
  });
});

describe('withTrace without an SDK', () => {
  it('goes on with the given trace, in a span of its own', async () => {
    expect(currentTraceparent()).toBeUndefined();
    const seen = await withTrace(header, 'outer', async () => {
      const outer = currentTraceparent();
      await setImmediate();
      const inner = await withTrace(undefined, 'inner', currentTraceparent);
      expect(currentTraceparent()).toBe(outer);
      return [outer, inner].map(parseTraceparent);
    });
    expect(seen.map((one) => one?.traceId)).toEqual([traceId, traceId]);
    expect(seen.map((one) => one?.flags)).toEqual([1, 1]);
    expect(new Set([spanId, ...seen.map((one) => one?.spanId)]).size).toBe(3);
    expect(currentTraceparent()).toBeUndefined();
  });

  it('starts a new trace without one, or with a broken one', async () => {
    const roots = [
      await withTrace(undefined, 'x', currentTraceparent),
      await withTrace('broken', 'x', currentTraceparent),
    ];
    expect(new Set(roots.map((one) => parseTraceparent(one)?.traceId)).size).toBe(2);
    expect(roots).not.toContain(undefined);
  });

  it('keeps concurrent traces apart, and passes results and errors on', async () => {
    const ids = Array.from({ length: 20 }, (_, i) => (i + 1).toString(16).padStart(32, '0'));
    const seen = await Promise.all(
      ids.map((id) =>
        withTrace(`00-${id}-${spanId}-00`, 'x', async () => {
          await setImmediate();
          return parseTraceparent(currentTraceparent())?.traceId;
        }),
      ),
    );
    expect(seen).toEqual(ids);
    const failure = new Error('no');
    await expect(withTrace(undefined, 'x', () => Promise.reject(failure))).rejects.toBe(failure);
  });
});

/** As where nothing is installed. */
const load = (name: string) => Promise.reject(new Error(`Cannot find package ${name}`));

describe('startTelemetry', () => {
  it('does nothing without an endpoint', async () => {
    const stop = await startTelemetry({ endpoint: undefined, load });
    await expect(stop()).resolves.toBeUndefined();
  });

  it('names the packages that are missing', async () => {
    await expect(startTelemetry({ endpoint: 'http://127.0.0.1:4318', load })).rejects.toThrow(
      exporterPackages.join(', '),
    );
    await expect(startTelemetry({ endpoint: 'http://127.0.0.1:4318', load: async () => ({}) })).rejects.toThrow(
      'unknown version',
    );
  });
});
