// @ts-check
// Generates what is not committed, if what it follows from has changed since the last time. For the start of npm
// scripts: plain JavaScript, since the first `node` may be an old one, and without any work when all is up to date.
//   --tests      also the typed documents of the tests
//   --optional   after an install, to spare the first start the time: a failure is told and is none, because the start
//                does it again, and an install without development packages cannot do it at all
import { spawnSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** @typedef {{ output: string, inputs: () => string[], command: [string, ...string[]] }} Task */

/** Files below a folder, relative to the root. @param {string} folder @param {string} ending */
const filesIn = (folder, ending) =>
  readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(ending) && !name.startsWith('generated'))
    .map((name) => `${folder}/${name}`)
    .toSorted();

/** @type {Task} */
const databaseClient = {
  output: 'src/generated',
  inputs: () => [
    ...filesIn('prisma/schema', '.prisma'),
    'prisma.config.ts',
    'node_modules/prisma/package.json',
    'node_modules/@pothos/plugin-prisma/package.json',
  ],
  command: ['prisma', 'generate', '--no-hints'],
};
/** @type {Task} */
const testDocuments = {
  output: 'test/generated',
  inputs: () => [
    'schema.graphql',
    'codegen.ts',
    'node_modules/@graphql-codegen/client-preset/package.json',
    ...filesIn('test', '.ts'),
  ],
  command: ['graphql-codegen', '--config', 'codegen.ts'],
};

const lockLimitMs = 120_000;

/** @param {string} file */
function readIfThere(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return '';
    throw error;
  }
}

/** The SHA-256 of all that decides the output. @param {Task} task */
function fingerprint(task) {
  const hash = createHash('sha256').update(task.command.join(' '));
  for (const file of task.inputs()) {
    const content = readFileSync(path.join(root, file));
    hash.update(`${file} ${content.length}\n`).update(content);
  }
  return hash.digest('hex');
}

/** @param {unknown} error */
const codeOf = (error) => (error instanceof Error && 'code' in error ? error.code : undefined);

/** Whether the process whose id is in the lock is gone. @param {string} lockFile @param {string} holder */
function isStale(lockFile, holder) {
  try {
    if (holder) process.kill(Number(holder), 0);
    return Date.now() - statSync(lockFile).mtimeMs > lockLimitMs;
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return true;
    if (codeOf(error) === 'EPERM' || codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** @param {string} lockFile @returns {boolean} whether this process has the lock now */
function tryLock(lockFile) {
  try {
    writeFileSync(lockFile, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
  }
  const holder = readIfThere(lockFile);
  if (isStale(lockFile, holder)) {
    const removed = `${lockFile}.${randomUUID()}`;
    try {
      renameSync(lockFile, removed);
      // Another process that found it stale too may have replaced it by its own meanwhile: give that back.
      if (readIfThere(removed) !== holder) linkSync(removed, lockFile);
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'EEXIST') throw error;
    }
    rmSync(removed, { force: true });
  }
  return false;
}

/** @param {Task} task @returns {number} the exit status */
function generate({ command: [program, ...args] }) {
  const bin = path.join(root, 'node_modules/.bin');
  const result = spawnSync(path.join(bin, program), args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, PATH: `${bin}${path.delimiter}${process.env['PATH'] ?? ''}` },
  });
  if (result.error) throw result.error;
  if (result.status !== 0) process.stderr.write(`${result.stdout}${result.stderr}`);
  return result.status ?? 1;
}

/** @param {Task} task @returns {Promise<number>} the exit status */
async function ensure(task) {
  const output = path.join(root, task.output);
  const stampFile = path.join(output, '.stamp');
  const lockFile = path.join(output, '.lock');
  if (readIfThere(stampFile) === fingerprint(task)) return 0;
  mkdirSync(output, { recursive: true });
  while (!tryLock(lockFile)) await new Promise((resolve) => setTimeout(resolve, 50));
  try {
    const wanted = fingerprint(task);
    if (readIfThere(stampFile) === wanted) return 0; // another process was faster
    rmSync(stampFile, { force: true });
    const status = generate(task);
    if (status === 0) writeFileSync(stampFile, wanted);
    return status;
  } finally {
    rmSync(lockFile, { force: true });
  }
}

async function main() {
  for (const task of process.argv.includes('--tests') ? [databaseClient, testDocuments] : [databaseClient]) {
    const status = await ensure(task);
    if (status !== 0) return status;
  }
  return 0;
}

if (process.argv.includes('--optional')) {
  try {
    await main();
  } catch (error) {
    console.warn(`Not generated now: ${error instanceof Error ? error.message : String(error)}`);
  }
} else {
  process.exitCode = await main();
}
