// Makes everything that is generated and committed, in the order in which one follows from the other, and the client
// types of the tests. `npm run check` compares.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const commands = [
  ['node', 'tools/ensure-generated.mjs'],
  ['node', 'tools/print-schema.ts'],
  ['node', 'tools/docs-config.ts'],
  ['node', 'tools/docs.ts'],
  ['node', 'tools/ensure-generated.mjs', '--tests'],
];
for (const [command = '', ...args] of commands) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) {
    console.error(`${[command, ...args].join(' ')} failed`);
    process.exit(status ?? 1);
  }
}
