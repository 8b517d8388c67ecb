import { readFile, writeFile } from 'node:fs/promises';
import { lexicographicSortSchema, printSchema } from 'graphql';
import { schema } from '../src/schema.ts';

/** Writes `schema.graphql`, sorted; with `--check` compares it and fails on a difference. */
const printed = `${printSchema(lexicographicSortSchema(schema))}\n`;
if (process.argv.includes('--check')) {
  if ((await readFile('schema.graphql', 'utf8')) !== printed) {
    console.error('schema.graphql is out of date: run `npm run generate`');
    process.exitCode = 1;
  }
} else {
  await writeFile('schema.graphql', printed);
}
