// The import law: which file may import which. Run it alone with `node tools/import-law.ts`; `npm run check` does too.
// Why no ready-made tool: see docs/decisions/0009-import-law.md.
import { readdir, readFile } from 'node:fs/promises';
import { builtinModules } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** Which domains a domain may use, through their index.ts. A new arrow is a design decision: say why in the change. */
const domainUses: Readonly<Record<string, readonly string[]>> = {
  identity: [],
  deployments: [],
  // A push deploys by the verb of deployments; a repository is reached by the token that identity keeps of a person.
  repositories: ['deployments', 'identity'],
  documents: [],
  instance: [],
};

/** Programs: files that are started, not imported. Whatever none of them reaches is dead. */
const programs = ['src/main.ts', 'src/demo/main.ts'];

/** Packages that speak GraphQL: for schema.ts and src/kernel only. */
const graphqlPackages =
  /^(?:graphql|graphql-yoga|graphql-ws|graphql-scalars|dataloader|@pothos\/.*|@graphql-yoga\/.*)$/;

/** What model.ts and errors.ts may load beside types: nothing that has a state or an effect. */
const pureKernel = /^src\/kernel\/(?:errors|ids|input|severity|system-error|crypto|runs\/model)\.ts$/;

export interface Import {
  /** As it is written. */
  readonly specifier: string;
  /** File in the repository, relative to its root; null: a package or a part of Node. */
  readonly file: string | null;
  /** Erased at run time. */
  readonly typeOnly: boolean;
  /** Started by path or opened as a file, not imported. */
  readonly byPath: boolean;
}

export type Sources = ReadonlyMap<string, string>;

const statement = /^(?:import|export)\b(?<what>[^'";]*?)\bfrom '(?<specifier>[^']+)'/gm;
const bare = /^import '(?<specifier>[^']+)'/gm;
const dynamic = /\bimport\('(?<specifier>[^']+)'\)/g;
const byUrl = /\bnew URL\(\s*'(?<specifier>[^']+)',\s*import\.meta\.url\s*\)/g;

function fileOf(from: string, specifier: string): string | null {
  if (specifier === '#prisma') return 'src/generated/prisma/client.ts';
  if (specifier.startsWith('#kernel/')) return `src/kernel/${specifier.slice('#kernel/'.length)}`;
  return specifier.startsWith('.') ? path.posix.join(path.posix.dirname(from), specifier) : null;
}

/** Whether every name in `{ … }` is marked as a type. */
function namesOnlyTypes(what: string): boolean {
  const names =
    /^\s*\{(.*)\}\s*$/s
      .exec(what)?.[1]
      ?.split(',')
      .filter((name) => name.trim()) ?? [];
  return names.length > 0 && names.every((name) => /^\s*type\s/.test(name));
}

/** What a file imports. The text is as prettier formats it: statements begin at the line's start, with single quotes. */
export function importsOf(file: string, source: string): Import[] {
  const code = source.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
  const found: Import[] = [];
  const add = (specifier: string, kind: { typeOnly?: boolean; byPath?: boolean } = {}) =>
    found.push({
      specifier,
      file: fileOf(file, kind.byPath && !specifier.startsWith('.') ? `./${specifier}` : specifier),
      typeOnly: kind.typeOnly ?? false,
      byPath: kind.byPath ?? false,
    });
  for (const { groups } of code.matchAll(statement)) {
    const what = groups?.['what'] ?? '';
    add(groups?.['specifier'] ?? '', { typeOnly: /^\s+type\b/.test(what) || namesOnlyTypes(what) });
  }
  for (const { groups } of code.matchAll(bare)) add(groups?.['specifier'] ?? '');
  for (const { groups } of code.matchAll(dynamic)) add(groups?.['specifier'] ?? '');
  for (const { groups } of code.matchAll(byUrl)) add(groups?.['specifier'] ?? '', { byPath: true });
  return found;
}

interface Place {
  readonly layer: 'kernel' | 'integrations' | 'domains' | 'generated' | 'demo' | 'root';
  /** Name of the domain or integration. */
  readonly name: string;
  /** A domain's part: model, errors, policy, events, jobs, service, schema, index. */
  readonly part: string;
}

function placeOf(file: string): Place {
  const [, first = '', second = '', third = ''] = file.split('/');
  switch (first) {
    case 'kernel':
    case 'generated':
    case 'demo':
      return { layer: first, name: '', part: '' };
    case 'integrations':
      return { layer: first, name: second, part: '' };
    case 'domains':
      return { layer: first, name: second, part: third.replace(/\.ts$/, '') };
    default:
      return { layer: 'root', name: '', part: '' };
  }
}

const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** Why this import breaks the law, as the end of a sentence; null: it does not. */
function objection(from: string, one: Import, sources: Sources, dependencies: ReadonlySet<string>): string | null {
  const here = placeOf(from);
  if (one.file === null) {
    const name = packageOf(one.specifier);
    if (name.startsWith('node:')) {
      return here.layer === 'domains' && /^(?:model|errors|policy|events|schema)$/.test(here.part)
        ? `${here.part}.ts touches nothing of the machine`
        : null;
    }
    if (builtinModules.includes(name)) return 'parts of Node are written with node:';
    if (!dependencies.has(name)) return 'this package is not in "dependencies"';
    if (here.layer !== 'domains') return null;
    if (graphqlPackages.test(name)) return here.part === 'schema' ? null : `only a schema.ts knows GraphQL`;
    if (/^(?:model|errors|policy|events)$/.test(here.part) && name !== 'zod') return `${here.part}.ts is pure`;
    return null;
  }
  if (one.byPath) return null;
  if (!one.file.startsWith('src/')) return 'src imports nothing from outside of src';
  const there = placeOf(one.file);
  if (there.layer !== 'generated' && !sources.has(one.file)) return 'there is no such file';
  switch (here.layer) {
    case 'kernel':
      return there.layer === 'kernel' || there.layer === 'generated' ? null : 'the kernel knows the kernel only';
    case 'integrations':
      if (there.layer === 'kernel') return null;
      return there.layer === 'integrations' && there.name === here.name
        ? null
        : 'an integration knows the kernel and itself only';
    case 'domains':
      return domainObjection(here, one, there);
    case 'demo':
    case 'root':
      if (there.layer === 'domains' && there.part !== 'index') return 'a domain is reached through its index.ts';
      return null;
    case 'generated':
      return null;
    default:
      return here.layer satisfies never;
  }
}

function domainObjection(here: Place, one: Import, there: Place): string | null {
  const { part } = here;
  switch (there.layer) {
    case 'root':
    case 'demo':
      return 'a domain does not know who starts it';
    case 'integrations':
      if (!/^(?:service|jobs)$/.test(part)) return `${part}.ts does not reach outside: services and jobs do`;
      return one.file?.endsWith('/index.ts') ? null : 'an integration is reached through its index.ts';
    case 'kernel':
    case 'generated':
      if (one.typeOnly) return null;
      if (/^(?:model|errors)$/.test(part) && !pureKernel.test(one.file ?? '')) return `${part}.ts is pure`;
      if (one.file?.startsWith('src/kernel/graphql/') && part !== 'schema') return 'only a schema.ts knows GraphQL';
      return null;
    case 'domains':
      if (there.name !== here.name) {
        if (!domainUses[here.name]?.includes(there.name)) return `${here.name} has no declared arrow to ${there.name}`;
        return there.part === 'index' ? null : 'another domain is reached through its index.ts';
      }
      if (part === 'index') return null;
      if (there.part === 'index' && part !== there.part) return 'index.ts is for others';
      if (there.part === 'schema' && part !== 'schema') return 'only index.ts imports schema.ts';
      if (part === 'schema' && there.part === 'jobs') return 'schema.ts starts no jobs: a service does';
      if (part === 'model' || part === 'errors') {
        return /^(?:model|errors)$/.test(there.part) ? null : `${part}.ts is pure`;
      }
      return null;
    default:
      return there.layer satisfies never;
  }
}

/** Groups of files that import each other in a circle at run time (Tarjan's strongly connected components). */
function cycles(graph: ReadonlyMap<string, readonly string[]>): string[][] {
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: string[][] = [];
  const visit = (file: string): number => {
    const own = index.size;
    index.set(file, own);
    let lowest = own;
    stack.push(file);
    for (const next of graph.get(file) ?? []) {
      if (!index.has(next)) lowest = Math.min(lowest, visit(next));
      else if (stack.includes(next)) lowest = Math.min(lowest, low.get(next) ?? index.get(next) ?? own);
    }
    low.set(file, lowest);
    if (lowest === own) {
      const group = stack.splice(stack.indexOf(file));
      if (group.length > 1 || (graph.get(file) ?? []).includes(file)) found.push(group.toSorted());
    }
    return lowest;
  };
  for (const file of graph.keys()) if (!index.has(file)) visit(file);
  return found;
}

/**
 * Every breach of the law, a sentence each.
 * @param sources text by file below src, generated ones left out
 * @param dependencies names in package.json's "dependencies"
 */
export function breaches(
  sources: Sources,
  dependencies: ReadonlySet<string>,
  started: readonly string[] = programs,
): string[] {
  const said: string[] = [];
  const loads = new Map<string, string[]>();
  const mentions = new Map<string, string[]>();
  for (const [file, source] of sources) {
    const imports = importsOf(file, source);
    for (const one of imports) {
      const why = objection(file, one, sources, dependencies);
      if (why) said.push(`${file} imports ${one.specifier}: ${why}`);
    }
    const inside = imports.filter((one) => one.file !== null && sources.has(one.file));
    loads.set(
      file,
      inside.filter((one) => !one.typeOnly && !one.byPath).map((one) => one.file ?? ''),
    );
    mentions.set(
      file,
      inside.map((one) => one.file ?? ''),
    );
    if (/\bprocess\.env\b/.test(source) && !/^src\/(?:config|main|demo\/\w+)\.ts$/.test(file)) {
      said.push(`${file} reads process.env: only src/config.ts does`);
    }
  }
  for (const domain of new Set(
    [...sources.keys()].map(placeOf).flatMap((at) => (at.layer === 'domains' ? [at.name] : [])),
  )) {
    if (!(domain in domainUses)) said.push(`The domain ${domain} is not in domainUses of tools/import-law.ts`);
  }
  for (const group of cycles(loads)) said.push(`These import each other in a circle: ${group.join(', ')}`);
  const reached = new Set(started);
  for (const file of reached) for (const next of mentions.get(file) ?? []) reached.add(next);
  for (const file of sources.keys())
    if (!reached.has(file)) said.push(`${file} is imported by nothing that is started`);
  return said.toSorted();
}

/** The files of src, those that were generated left out. */
async function readSources(root: string): Promise<Map<string, string>> {
  const names = await readdir(path.join(root, 'src'), { recursive: true });
  const files = names
    .map((name) => `src/${name.replaceAll('\\', '/')}`)
    .filter((name) => /\.(?:ts|mjs)$/.test(name) && !name.startsWith('src/generated/'));
  return new Map(
    await Promise.all(
      files.toSorted().map(async (file) => [file, await readFile(path.join(root, file), 'utf8')] as const),
    ),
  );
}

/** Files of src that a program in tools/ or bench/ uses: those are programs too. */
async function usedByTools(root: string): Promise<string[]> {
  const used: string[] = [];
  for (const folder of ['tools', 'bench']) {
    for (const name of (await readdir(path.join(root, folder))).filter((one) => one.endsWith('.ts'))) {
      const file = `${folder}/${name}`;
      const imports = importsOf(file, await readFile(path.join(root, file), 'utf8'));
      used.push(...imports.flatMap((one) => (one.file?.startsWith('src/') ? [one.file] : [])));
    }
  }
  return used;
}

if (import.meta.main) {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const manifest = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const started = [...programs, ...(await usedByTools(root))];
  const found = breaches(await readSources(root), new Set(Object.keys(manifest.dependencies)), started);
  for (const one of found) console.error(one);
  if (found.length > 0) process.exitCode = 1;
}
