import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const here = fileURLToPath(new URL('.', import.meta.url));
const strip = fileURLToPath(new URL('./strip.mjs', import.meta.url));
const errors = fileURLToPath(new URL('../../kernel/errors.ts', import.meta.url));
/** Larger than all of them, bytes. */
const maxBytes = 8_388_608;

let made: Promise<string> | undefined;
let ready = '';

/**
 * The modules of a child process without their types, as JSON; empty until they are known. They are found out by a process
 * of its own, once: what takes types out needs memory, and nothing else here does. A cache of Node's on the disk would
 * have to be open to what reads hostile files for writing, too.
 */
export function strippedCode(): string {
  made ??= stripped().then(
    (code) => (ready = code),
    // Each child takes them out by itself then, which is slower; if it cannot either, it says so.
    () => '',
  );
  return ready;
}

async function stripped(): Promise<string> {
  const names = await readdir(here, { recursive: true });
  const files = names.filter((name) => name.endsWith('.ts')).map((name) => path.join(here, name));
  const args = ['--disable-warning=ExperimentalWarning', strip, errors, ...files];
  return (await run(process.execPath, args, { env: {}, maxBuffer: maxBytes, timeout: 30_000 })).stdout;
}
