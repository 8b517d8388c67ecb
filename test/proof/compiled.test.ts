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
    `seed ${seed}: of ${tally.asked} operations ${tally.planned} had a plan, ${tally.compiled} were one statement, ${tally.refused} of the others came upon an error; ${tally.errors} had errors in all, ${tally.stale} had other rights than before; ${tally.spoilt} columns were spoilt; ${share} of ${fields.length} fields compile`,
  );
  expect(tally.wrong).toEqual([]);
  // Each that has a plan is one statement, unless that comes upon an error: of rows that were spoilt, most of them.
  expect(tally.compiled + tally.refused).toBe(tally.planned);
  // The rest is of strangers, of what is refused, and of fields that do not compile.
  expect(tally.planned).toBeGreaterThan(tally.asked * 0.45);
  expect(tally.stale).toBeGreaterThan(tally.asked / 50);
  expect(tally.spoilt).toBeGreaterThan(tally.asked / 10);
});
