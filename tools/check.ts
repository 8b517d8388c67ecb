// Every static check, by name, a line each. Exit status 1, with the failed ones named at the end, when one fails.
//
//   npm run check                      all of them
//   node tools/check.ts types format   only these
//   node tools/check.ts --json FILE    also writes {passed, failed, skipped, failures: [{name, said}]} to FILE
import { spawn } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildSchema, Kind, parse, validate } from 'graphql';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = path.join(root, 'node_modules/.bin');
const env = {
  ...process.env,
  PATH: `${bin}${path.delimiter}${process.env['PATH'] ?? ''}`,
  npm_config_loglevel: 'warn', // `npm run --silent` hands its silence on, and the audit reads what npm says
};

interface Outcome {
  readonly ok: boolean;
  /** What was found, or why it was skipped. */
  readonly said: string;
  readonly skipped?: boolean;
}

type Check = () => Promise<Outcome>;

async function command(name: string, ...args: string[]): Promise<Outcome> {
  const child = spawn(name, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (said += text));
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { ok: status === 0, said: said.trim() };
}

const tool = (file: string, ...args: string[]): Promise<Outcome> => command('node', `tools/${file}`, ...args);

const all = (problems: readonly string[]): Outcome => ({ ok: problems.length === 0, said: problems.join('\n') });

interface Manifest {
  readonly dependencies?: Record<string, string>;
  readonly devDependencies?: Record<string, string>;
  readonly optionalDependencies?: Record<string, string>;
}

/** Exact versions, a lock file that fits them, and no address of a registry in it. */
async function packages(): Promise<Outcome> {
  const manifest = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8')) as Manifest;
  const text = await readFile(path.join(root, 'package-lock.json'), 'utf8');
  const lock = JSON.parse(text) as { packages: Record<string, Manifest> };
  const problems: string[] = [];
  for (const group of ['dependencies', 'devDependencies', 'optionalDependencies'] as const) {
    const locked = lock.packages['']?.[group] ?? {};
    const wanted = manifest[group] ?? {};
    for (const [name, version] of Object.entries(wanted)) {
      if (!/^\d+\.\d+\.\d+(?:-[\w.]+)?$/.test(version)) problems.push(`${name}: ${version} is no exact version`);
      if (locked[name] !== version) problems.push(`${name}: package-lock.json says ${locked[name] ?? 'nothing'}`);
    }
    for (const name of Object.keys(locked)) if (!(name in wanted)) problems.push(`${name}: only in package-lock.json`);
  }
  for (const [, address = ''] of text.matchAll(/"resolved": "([^"]*)"/g)) {
    if (!address.startsWith('https://registry.npmjs.org/')) problems.push(`package-lock.json names ${address}`);
  }
  return all(problems);
}

/** Every document for people, as a path from the root. */
async function documents(): Promise<string[]> {
  return [
    ...(await readdir(root)).filter((name) => name.endsWith('.md')),
    ...(await readdir(path.join(root, 'docs'), { recursive: true }))
      .filter((name) => name.endsWith('.md'))
      .map((name) => `docs/${name}`),
  ];
}

/** GraphQL in the documents fits the schema. */
async function examples(): Promise<Outcome> {
  const schema = buildSchema(await readFile(path.join(root, 'schema.graphql'), 'utf8'));
  const problems: string[] = [];
  for (const document of await documents()) {
    const text = await readFile(path.join(root, document), 'utf8');
    for (const [, block = ''] of text.matchAll(/^```graphql\n([\s\S]*?)^```/gm)) {
      // Several operations without a name stand side by side, each to be sent alone.
      for (const operation of parse(block).definitions) {
        const errors = validate(schema, { kind: Kind.DOCUMENT, definitions: [operation] });
        problems.push(...errors.map(({ message }) => `${document}: ${message}`));
      }
    }
  }
  return all(problems);
}

/** Links from one document to another file, or to a heading, lead somewhere. */
async function links(): Promise<Outcome> {
  const problems: string[] = [];
  const headings = async (file: string): Promise<string[]> =>
    [...(await readFile(file, 'utf8')).matchAll(/^#+ (.*)$/gm)].map(([, title = '']) =>
      title
        .toLowerCase()
        .replaceAll(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    );
  for (const document of await documents()) {
    const text = (await readFile(path.join(root, document), 'utf8')).replaceAll(/^```[\s\S]*?^```/gm, '');
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const at = path.join(root, file ? path.join(path.dirname(document), file) : document);
      try {
        if (anchor && !(await headings(at)).includes(anchor)) problems.push(`${document}: no heading ${target}`);
        else
          await readFile(at).catch(async (error: unknown) => (isFolder(error) ? readdir(at) : Promise.reject(error)));
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
        problems.push(`${document}: there is no ${target}`);
      }
    }
  }
  return all(problems);
}

/** Every promise of docs/security.md, and every fault of docs/deployments-before.md, has tests, and they are there. */
async function proofs(): Promise<Outcome> {
  const text = await readFile(path.join(root, 'docs/security.md'), 'utf8');
  const part = (title: string): string => new RegExp(`^## ${title}$([\\s\\S]*?)^## `, 'm').exec(text)?.[1] ?? '';
  const promises = [...part('Promises').matchAll(/^- \*\*(.+?)\.?\*\*/gm)].map(([, name = '']) => name);
  const rows = new Map([...part('Proofs').matchAll(/^\| (.+?) +\| (.*\]\(.*) +\|$/gm)].map(([, name = '', cell = '']) => [name, cell])); // prettier-ignore
  const problems = promises.filter((name) => !rows.has(name)).map((name) => `docs/security.md: ${name} has no proof`);
  for (const [name, cell] of rows) {
    if (!promises.includes(name)) problems.push(`docs/security.md: ${name} is no promise`);
    problems.push(...(await missingTests(cell)).map((problem) => `docs/security.md: ${name}: ${problem}`));
  }
  const faults = await readFile(path.join(root, 'docs/deployments-before.md'), 'utf8');
  for (const [, name = '', cell = ''] of faults.matchAll(/^\| (\d+) +\|.*\| ([^|]*) +\|$/gm))
    problems.push(...(await missingTests(cell)).map((problem) => `docs/deployments-before.md: ${name}: ${problem}`));
  return all(problems);
}

/** What is wrong in a cell that names tests: `[file](../test/…): ` and their titles, the files apart by `<br>`. */
async function missingTests(cell: string): Promise<string[]> {
  const problems: string[] = [];
  for (const tests of cell.split('<br>')) {
    const file = /\]\(\.\.\/(test\/[^)]+)\)/.exec(tests)?.[1] ?? '';
    const names = [...tests.matchAll(/`([^`]+)`/g)].map(([, one = '']) => one);
    const source = await readFile(path.join(root, file), 'utf8').catch(() => '');
    if (names.length === 0) problems.push(`which tests of ${file}?`);
    for (const one of names) {
      const isThere = [`'${one}'`, `"${one}"`, `'${one.replaceAll("'", "\\'")}'`].some((quoted) =>
        source.includes(quoted),
      );
      if (!isThere) problems.push(`${file} has no test \`${one}\``);
    }
  }
  return problems;
}

const isFolder = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'EISDIR';

/** Known holes in what production uses. A registry that does not tell of holes is no failure. */
async function audit(): Promise<Outcome> {
  const { ok, said } = await command('npm', 'audit', '--omit=dev', '--audit-level=high');
  if (!ok && /audit endpoint returned an error|ENOAUDIT|network|ENOTFOUND|ECONNREFUSED/i.test(said)) {
    return { ok: true, skipped: true, said: 'the registry does not offer it' };
  }
  return { ok, said: ok ? '' : said };
}

const checks: Readonly<Record<string, Check>> = {
  packages,
  types: () => command('tsc', '-p', '.'),
  lint: () => command('oxlint', '--type-aware', '--deny-warnings'),
  format: () => command('prettier', '--check', '--log-level', 'warn', '.'),
  imports: () => tool('import-law.ts'),
  errors: () => tool('thrown.ts'),
  schema: () => tool('print-schema.ts', '--check'),
  compatibility: () => tool('schema-changes.ts'),
  configuration: () => tool('docs-config.ts', '--check'),
  references: () => tool('docs.ts', '--check'),
  measurements: () => command('node', 'bench/docs.ts', '--check'),
  links,
  proofs,
  examples,
  migrations: () => tool('db.ts', 'drift'),
  audit,
};

const { values, positionals } = parseArgs({ options: { json: { type: 'string' } }, allowPositionals: true });
for (const name of positionals) if (!(name in checks)) throw new Error(`There is no check named ${name}`);
const chosen = Object.entries(checks).filter(([name]) => positionals.length === 0 || positionals.includes(name));
const counts = { passed: 0, failed: 0, skipped: 0 };
const failures: { readonly name: string; readonly said: string }[] = [];

const queue = [...chosen];
async function work(): Promise<void> {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const [name, check] = next;
    const begun = performance.now();
    const outcome = await check().catch((error: unknown): Outcome => ({ ok: false, said: String(error) }));
    const kind = outcome.skipped ? 'skipped' : outcome.ok ? 'passed' : 'failed';
    counts[kind]++;
    if (kind === 'failed') failures.push({ name, said: outcome.said });
    const time = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
    const note = outcome.ok && outcome.said && !outcome.said.includes('\n') ? `  ${outcome.said}` : '';
    console.log(`${kind.padEnd(8)} ${name.padEnd(14)} ${time.padStart(7)}${note}`);
    if (!outcome.ok) console.log(outcome.said.replaceAll(/^/gm, '    '));
  }
}
await Promise.all([work(), work()]);
if (values.json) await writeFile(values.json, JSON.stringify({ ...counts, failures }));
if (failures.length > 0) {
  console.error(`\nFailed: ${failures.map(({ name }) => name).join(', ')}`);
  process.exitCode = 1;
}
