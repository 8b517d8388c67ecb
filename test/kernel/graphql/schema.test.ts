import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  getNamedType,
  getNullableType,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isListType,
  isObjectType,
  isScalarType,
  isUnionType,
  Kind,
  parse,
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputField,
  type GraphQLNamedType,
  type GraphQLObjectType,
} from 'graphql';
import { isConnection } from '#kernel/graphql/builder.ts';
import { describe, expect, test } from 'vitest';
import { Prisma } from '#prisma';
import { allPolicies, rowRule } from '#kernel/auth/policy.ts';
import { newId } from '#kernel/ids.ts';
import { measure, measuring, type Args, type OperationLimits } from '../../../src/kernel/http/limits.ts';
import { schema } from '../../../src/schema.ts';

// Walks the schema itself, so that a type that is added later is looked at without being named here.

const types = Object.values(schema.getTypeMap()).filter(({ name }) => !name.startsWith('__'));
const capital = (name: string) => name.charAt(0).toUpperCase() + name.slice(1);
const fieldsOf = (type: GraphQLNamedType): (GraphQLField<unknown, unknown> | GraphQLInputField)[] =>
  isObjectType(type) || isInterfaceType(type) || isInputObjectType(type) ? Object.values(type.getFields()) : [];
const argsOf = (field: object): readonly GraphQLArgument[] =>
  'args' in field ? (field.args as readonly GraphQLArgument[]) : [];
const root = (type: GraphQLObjectType | null | undefined) => Object.values(type?.getFields() ?? {});

test('what the documents show may be asked: no example costs more than an operation may', async () => {
  const root = fileURLToPath(new URL('../../..', import.meta.url));
  const names = (await readdir(path.join(root, 'docs'))).filter((name) => name.endsWith('.md'));
  const limits = { depth: 12, cost: 5_000 } as OperationLimits;
  const refused: string[] = [];
  let measured = 0;
  for (const name of ['README.md', ...names.map((one) => `docs/${one}`)]) {
    const text = await readFile(path.join(root, name), 'utf8');
    for (const [, block = ''] of text.matchAll(/^ *```graphql\n([\s\S]*?)^ *```/gm))
      for (const definition of parse(block).definitions) {
        const document = { kind: Kind.DOCUMENT, definitions: [definition] } as const;
        const variables = definition.kind === Kind.OPERATION_DEFINITION ? (definition.variableDefinitions ?? []) : [];
        const given = variables.filter(({ type }) => type.kind === Kind.NON_NULL_TYPE);
        const variableValues = Object.fromEntries(given.map(({ variable }) => [variable.name.value, '1']));
        const { errors } = measure(limits, { schema, document, variableValues } as unknown as Args);
        refused.push(...errors.map(({ message }) => `${name}: ${message}`));
        measured++;
      }
  }
  expect(refused).toEqual([]);
  expect(measured).toBeGreaterThan(8);
});

test('what an operation costs is kept for what its cost depends on, and for nothing else', () => {
  const measured = measuring({ depth: 12, cost: 5_000 } as OperationLimits);
  const document = parse('query ($slug: String!, $n: Int, $after: String) { workspace(slug: $slug) { runs(first: $n, after: $after) { nodes { id } } } }'); // prettier-ignore
  const of = (variableValues: object) => measured({ schema, document, variableValues } as unknown as Args);
  const cursor = () => Buffer.from(`GPC:S:${newId()}`).toString('base64');
  expect(of({ slug: 'a' })).toBe(of({ slug: 'b' }));
  expect(of({ slug: 'a', after: cursor() })).toBe(of({ slug: 'b', after: cursor() }));
  expect(of({ slug: 'a', n: 100 }).cost).toBeGreaterThan(of({ slug: 'a', n: 1 }).cost);
  expect(of({ slug: 'a', after: 'no cursor' }).errors).toHaveLength(1);
  expect(of({ slug: 'a', after: '' }).errors).toHaveLength(1);
});

describe('descriptions', () => {
  test('everything has one that ends as a sentence does', () => {
    const missing: string[] = [];
    const look = (name: string, thing: { description?: string | null | undefined }) => {
      if (!/[.:!)`\]]$/.test(thing.description?.trim() ?? '')) missing.push(`${name}: ${thing.description ?? ''}`);
    };
    for (const type of types) {
      // The scalars that GraphQL itself and graphql-scalars describe.
      if (!isScalarType(type)) look(type.name, type);
      for (const field of fieldsOf(type)) {
        look(`${type.name}.${field.name}`, field);
        for (const arg of argsOf(field)) look(`${type.name}.${field.name}(${arg.name})`, arg);
      }
      if (isEnumType(type)) for (const value of type.getValues()) look(`${type.name}.${value.name}`, value);
    }
    expect(missing).toEqual([]);
  });

  test('scalars are those of the one set', () => {
    expect(
      types
        .filter(isScalarType)
        .map(({ name }) => name)
        .toSorted(),
    ).toEqual(
      [
        'BigInt',
        'Boolean',
        'DateTime',
        'Float',
        'ID',
        'Int',
        'JSON',
        'NonNegativeInt',
        'Secret',
        'String',
        'URL',
      ].filter((name) => schema.getType(name)),
    );
  });
});

describe('names', () => {
  test.each(root(schema.getMutationType()).map((field) => [field.name, field] as const))('%s', (name, field) => {
    expect(String(field.type)).toBe(`${capital(name)}Result!`);
    const result = getNamedType(field.type);
    if (!isUnionType(result)) throw new Error(`${result.name} is no union`);
    const members = result.getTypes();
    const successes = members.filter((member) => !member.getInterfaces().some((one) => one.name === 'Error'));
    expect(successes.map((one) => one.name)).toEqual([`${capital(name)}Success`]);
    expect(members.map((one) => one.name)).toEqual(
      expect.arrayContaining(['Forbidden', 'NotFound', 'Unauthenticated', 'ValidationError']),
    );
    for (const arg of field.args) {
      expect(arg.name).toBe('input');
      expect(String(arg.type)).toBe(`${capital(name)}Input!`);
    }
  });

  test('types are in pascal case, fields in camel case, enum values in capitals', () => {
    const odd: string[] = [];
    for (const type of types) {
      if (!/^[A-Z][A-Za-z0-9]*$/.test(type.name)) odd.push(type.name);
      for (const field of fieldsOf(type)) {
        for (const { name } of [field, ...argsOf(field)])
          if (!/^[a-z][A-Za-z0-9]*$/.test(name)) odd.push(`${type.name}.${name}`);
      }
      if (isEnumType(type))
        for (const { name } of type.getValues()) if (!/^[A-Z][A-Z0-9_]*$/.test(name)) odd.push(`${type.name}.${name}`);
    }
    expect(odd).toEqual([]);
  });

  test('what implements Error has a code that no other has', () => {
    const error = schema.getType('Error');
    if (!isInterfaceType(error)) throw new Error('there is no Error');
    for (const type of schema.getPossibleTypes(error)) expect(Object.keys(type.getFields())).toContain('message');
  });
});

describe('sizes', () => {
  test('a list with a size takes the sizes of connections, or a default', () => {
    const unbounded: string[] = [];
    for (const type of types) {
      if (!isObjectType(type) && !isInterfaceType(type)) continue;
      for (const field of Object.values(type.getFields())) {
        const named = getNamedType(field.type);
        if (!isConnection(named)) continue;
        const given = field.args.map((arg) => arg.name);
        if (!['first', 'last', 'after', 'before'].every((name) => given.includes(name)))
          unbounded.push(`${type.name}.${field.name}`);
      }
    }
    expect(unbounded).toEqual([]);
  });

  test('no root field answers with a bare list, except nodes', () => {
    const lists = root(schema.getQueryType()).filter((field) => isListType(getNullableType(field.type)));
    expect(lists.map((field) => field.name)).toEqual(['nodes']);
  });
});

describe('row rules', () => {
  const models = new Map<string, string>();
  for (const type of types) {
    const model = type.extensions['pothosPrismaModel'];
    if (typeof model === 'string') models.set(type.name, model);
  }
  const declared = allPolicies().flatMap((policy) => Object.entries(policy.rows));

  test('every Prisma model in the schema has one', () => {
    expect(models.size).toBeGreaterThan(0);
    for (const model of models.values()) expect(() => rowRule(model)).not.toThrow();
  });

  test('each is of a model that exists', () => {
    const known = Object.keys(Prisma.ModelName);
    expect(declared.map(([model]) => model).filter((model) => !known.includes(model))).toEqual([]);
  });

  test('what is seen only inside its parent is no node and no root field gives it', () => {
    const inside = new Set([...models].filter(([, model]) => rowRule(model).by === 'parent').map(([type]) => type));
    expect(inside.size).toBeGreaterThan(0);
    const nodes = types.filter((type) => isObjectType(type) && type.getInterfaces().some((one) => one.name === 'Node'));
    expect(nodes.filter(({ name }) => inside.has(name))).toEqual([]);
    const given = [schema.getQueryType(), schema.getSubscriptionType()].flatMap(root).flatMap((field) => {
      const named = getNamedType(field.type);
      if (!isConnection(named) || !isObjectType(named)) return [named.name];
      return Object.values(named.getFields()).map((part) => getNamedType(part.type).name);
    });
    expect(given.filter((name) => inside.has(name))).toEqual([]);
  });

  test('what has no rule of its own stands on no other model than its own', () => {
    for (const [name, model] of models) expect([name, model in Prisma.ModelName]).toEqual([name, true]);
  });
});
