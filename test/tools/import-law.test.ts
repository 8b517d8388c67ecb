import { expect, test } from 'vitest';
import { breaches, importsOf } from '../../tools/import-law.ts';

const packages = new Set(['zod', 'graphql', 'pg']);

/** A small tree that keeps the law. */
const lawful = {
  'src/main.ts': "import './config.ts';\nimport { start } from './start.ts';\nstart(process.env);\n",
  'src/config.ts': "import { z } from 'zod';\nexport const a = [z, process.env];\n",
  'src/start.ts': "import { Identity } from './domains/identity/index.ts';\nimport '#kernel/graphql/builder.ts';\n",
  'src/kernel/app.ts': "import type { Hub } from './hub.ts';\nexport type App = { hub: Hub };\n",
  'src/kernel/hub.ts': "import type { App } from './app.ts';\nimport { Client } from 'pg';\n",
  'src/kernel/errors.ts': 'export class DomainError {}\n',
  'src/kernel/graphql/builder.ts': "import { GraphQLError } from 'graphql';\nimport '../app.ts';\n",
  'src/integrations/git/index.ts':
    "import { spawn } from 'node:child_process';\nimport { DomainError } from '#kernel/errors.ts';\n",
  'src/domains/identity/index.ts': "import './schema.ts';\nexport { Identity } from './service.ts';\n",
  'src/domains/identity/schema.ts':
    "import { builder } from '#kernel/graphql/builder.ts';\nimport { Identity } from './service.ts';\n",
  'src/domains/identity/service.ts':
    "import { A } from './model.ts';\nimport { B } from './errors.ts';\nimport { git } from '../../integrations/git/index.ts';\n",
  'src/domains/identity/model.ts': "import { z } from 'zod';\nimport type { App } from '#kernel/app.ts';\n",
  'src/domains/identity/errors.ts': "import { DomainError } from '#kernel/errors.ts';\n",
  'src/domains/deployments/index.ts': "export { Deployments } from './service/index.ts';\n",
  'src/domains/deployments/service/index.ts': "export { Deployments } from './deployments.ts';\n",
  'src/domains/deployments/service/deployments.ts': 'export const Deployments = 1;\n',
} as const;

const programs = ['src/main.ts', 'src/domains/deployments/index.ts'];

const judge = (changed: Record<string, string> = {}) =>
  breaches(new Map(Object.entries({ ...lawful, ...changed })), packages, programs);

/** The same tree with one more line in one of its files. */
const withLine = (file: keyof typeof lawful, line: string, more: Record<string, string> = {}) =>
  judge({ ...more, [file]: `${line}\n${lawful[file]}` });

test('a tree that keeps the law has no breach', () => {
  expect(judge()).toEqual([]);
});

test.for<[what: string, file: keyof typeof lawful, line: string, said: string]>([
  ['the kernel knows no domain', 'src/kernel/hub.ts', "import '../domains/identity/index.ts';", 'the kernel only'],
  [
    'not even a type of it',
    'src/kernel/hub.ts',
    "import type { X } from '../domains/identity/index.ts';",
    'the kernel only',
  ],
  ['the kernel knows no integration', 'src/kernel/hub.ts', "import '../integrations/git/index.ts';", 'the kernel only'],
  ['the kernel does not load what starts it', 'src/kernel/hub.ts', "await import('../start.ts');", 'the kernel only'],
  [
    'an integration knows no domain',
    'src/integrations/git/index.ts',
    "import '../../domains/identity/index.ts';",
    'itself only',
  ],
  ['no arrow', 'src/domains/identity/service.ts', "import '../deployments/index.ts';", 'no declared arrow'],
  ['no way past an index', 'src/start.ts', "import './domains/identity/service.ts';", 'through its index.ts'],
  ['a model is pure', 'src/domains/identity/model.ts', "import { App } from '#kernel/app.ts';", 'model.ts is pure'],
  [
    'a model does not read files',
    'src/domains/identity/model.ts',
    "import fs from 'node:fs';",
    'nothing of the machine',
  ],
  ['errors are pure', 'src/domains/identity/errors.ts', "import './service.ts';", 'errors.ts is pure'],
  ['a service knows no GraphQL', 'src/domains/identity/service.ts', "import 'graphql';", 'only a schema.ts'],
  ['not by the kernel', 'src/domains/identity/service.ts', "import '#kernel/graphql/builder.ts';", 'only a schema.ts'],
  ['nor by its own schema', 'src/domains/identity/service.ts', "import './schema.ts';", 'only index.ts'],
  [
    'a schema does not reach outside',
    'src/domains/identity/schema.ts',
    "import '../../integrations/git/index.ts';",
    'does not reach outside',
  ],
  ['packages are declared', 'src/kernel/hub.ts', "import 'lodash/fp';", 'not in "dependencies"'],
  ['node: is written', 'src/kernel/hub.ts', "import 'fs';", 'with node:'],
  ['files exist', 'src/kernel/hub.ts', "import './nothing.ts';", 'no such file'],
  ['nothing outside of src', 'src/kernel/hub.ts', "import '../../test/support/server.ts';", 'outside of src'],
  ['the environment has one reader', 'src/kernel/hub.ts', "const home = process.env['HOME'];", 'reads process.env'],
  ['no circle at run time', 'src/kernel/errors.ts', "export * from './graphql/builder.ts';", 'in a circle'],
] as const)('%s', ([what, file, line, said]) => {
  const more = what.includes('circle')
    ? { 'src/kernel/graphql/builder.ts': "import '../errors.ts';\nimport '../app.ts';\n" }
    : {};
  expect(withLine(file, line, more).join('\n')).toContain(said);
});

test('a model loads a part of the kernel only where that is named as pure', () => {
  const kernel = {
    'src/kernel/severity.ts': 'export const severities = [];\n',
    'src/kernel/severities.ts': 'export const open = new Set();\n',
  };
  const loads = (name: string) =>
    withLine('src/domains/identity/model.ts', `import { severities } from '#kernel/${name}.ts';`, {
      ...kernel,
      'src/kernel/hub.ts': "import './severity.ts';\nimport './severities.ts';\n",
    });
  expect(loads('severity')).toEqual([]);
  expect(loads('severities')).toEqual([
    'src/domains/identity/model.ts imports #kernel/severities.ts: model.ts is pure',
  ]);
});

test('a file that nothing reaches is dead; one that is started by its path is not', () => {
  const orphan = { 'src/kernel/orphan.mjs': 'export const a = 1;\n' };
  expect(judge(orphan)).toEqual(['src/kernel/orphan.mjs is imported by nothing that is started']);
  expect(withLine('src/kernel/hub.ts', "const file = new URL('orphan.mjs', import.meta.url);", orphan)).toEqual([]);
});

test('a new domain must be declared', () => {
  const added = { 'src/domains/fleet/index.ts': 'export const a = 1;\n' };
  expect(withLine('src/start.ts', "import './domains/fleet/index.ts';", added)).toEqual([
    'The domain fleet is not in domainUses of tools/import-law.ts',
  ]);
});

test('reads every form of import, and no comment', () => {
  const source = `// import './comment.ts';
/* import './block.ts'; */
import {
  a,
  type B,
} from './many.ts';
import { type C } from './types.ts';
import type D from './type.ts';
export type { E } from './exported-type.ts';
export * from './all.ts';
const from = 'x';
const late = await import('./late.ts');
`;
  expect(importsOf('src/x.ts', source).map((one) => [one.file, one.typeOnly])).toEqual([
    ['src/many.ts', false],
    ['src/types.ts', true],
    ['src/type.ts', true],
    ['src/exported-type.ts', true],
    ['src/all.ts', false],
    ['src/late.ts', false],
  ]);
});
