import { afterAll, beforeAll, expect, test } from 'vitest';
import { both, compiledFields, differ, type Both } from '../support/compiled.ts';

/*
 * The compiler is trusted because of this: thousands of random operations, of every kind of actor, answered both ways,
 * byte for byte the same. COMPILED_SEED and COMPILED_COUNT try others.
 */

let servers: Both;
beforeAll(async () => {
  servers = await both();
});
afterAll(() => servers.stop());

test('random operations are answered the same, compiled or not', { timeout: 600_000 }, async () => {
  const seed = Number(process.env['COMPILED_SEED'] ?? 20_261_121);
  const tally = await differ(servers, { seed, count: Number(process.env['COMPILED_COUNT'] ?? 2500) });
  const fields = [...compiledFields(servers.app).values()];
  const share = fields.filter((reason) => reason === null).length;
  console.log(
    `seed ${seed}: of ${tally.asked} operations ${tally.compiled} were one statement, ${tally.errors} had errors, ${tally.stale} had other rights than before; ${tally.spoilt} columns were spoilt; ${share} of ${fields.length} fields compile`,
  );
  expect(tally.wrong).toEqual([]);
  // The others have errors, or a field that does not compile.
  expect(tally.compiled).toBeGreaterThan(tally.asked * 0.4);
  expect(tally.stale).toBeGreaterThan(tally.asked / 50);
  expect(tally.spoilt).toBeGreaterThan(tally.asked / 10);
});
