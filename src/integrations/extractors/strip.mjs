// Says the sources of the modules in its arguments without their types, as JSON: `{<url>: <source>}`.
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { pathToFileURL } from 'node:url';

const said = {};
for (const file of process.argv.slice(2))
  said[pathToFileURL(file).href] = stripTypeScriptTypes(readFileSync(file, 'utf8'));
process.stdout.write(JSON.stringify(said));
