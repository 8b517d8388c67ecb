import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { settings } from '../../src/config.ts';
import { configurationReference, referenceFile } from '../../tools/docs-config.ts';

it('docs/configuration.md is what the table in src/config.ts says', async () => {
  const reference = configurationReference();
  expect(await readFile(referenceFile, 'utf8')).toBe(reference);
  for (const name of Object.keys(settings)) expect(reference).toContain(`| \`${name}\` |`);
});
