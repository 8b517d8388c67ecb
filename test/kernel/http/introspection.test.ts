import {
  buildClientSchema,
  getIntrospectionQuery,
  lexicographicSortSchema,
  printSchema,
  type IntrospectionQuery,
} from 'graphql';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { schema } from '../../../src/schema.ts';
import { socket } from '../../support/client.ts';
import { post, type RawAnswer } from '../../support/http.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

// The schema's description has no cost of its own, and is large: what may be asked of it is bounded by its form.

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
});
afterAll(() => server.stop());

const everything = getIntrospectionQuery({
  descriptions: true,
  specifiedByUrl: true,
  directiveIsRepeatable: true,
  schemaDescription: true,
  inputValueDeprecation: true,
  oneOf: true,
});

test.each([
  ['with all options', everything],
  ['as it is by default', getIntrospectionQuery()],
])('the standard query %s gives the whole schema', async (_, query) => {
  const answer = await post(server.url, { query });
  expect(answer.codes).toEqual([]);
  const { data } = answer.body as { data: IntrospectionQuery };
  const rebuilt = printSchema(lexicographicSortSchema(buildClientSchema(data)));
  // Names and types; descriptions are among what an option leaves out.
  expect(rebuilt.length).toBeGreaterThan(printSchema(lexicographicSortSchema(schema)).length / 2);
});

test('a look at one type is free to be written by hand', async () => {
  const query = `{ __type(name: "Query") { name fields { name args { name type { name } } type { name ofType { name fields { name } } } } } }`;
  expect((await post(server.url, { query })).codes).toEqual([]);
});

describe('refused is', () => {
  const type = 'name kind ofType { name }';
  const many = Array.from({ length: 30 }, (_, i) => `a${i}: types { name fields { name type { ${type} } } }`).join(' ');
  const chain = (levels: number): string => (levels === 0 ? 'name' : `ofType { ${chain(levels - 1)} }`);

  test.each([
    ['the whole under aliases', `{ __schema { ${many} } }`, 'TOO_MANY_ALIASES'],
    [
      'one alias, in a fragment',
      `{ __schema { ...F } } fragment F on __Schema { a: types { name } }`,
      'TOO_MANY_ALIASES',
    ],
    ['fields of fields of everything', `{ __schema { types { fields { type { fields { name } } } } } }`, 'TOO_DEEP'],
    [
      'the same through fragments',
      `{ __schema { types { ...A } } } fragment A on __Type { fields { type { ...B } } } fragment B on __Type { possibleTypes { name } }`,
      'TOO_DEEP',
    ],
    ['a long chain of wrappers', `{ __type(name: "Query") { fields { type { ${chain(11)} } } } }`, 'TOO_DEEP'],
    ['the schema twice', `{ a: __schema { types { name } } b: __schema { types { name } } }`, 'TOO_COSTLY'],
    [
      'three types',
      `{ a: __type(name: "A") { name } b: __type(name: "B") { name } c: __type(name: "C") { name } }`,
      'TOO_COSTLY',
    ],
    [
      'fragments in a circle',
      `{ __schema { types { ...A } } } fragment A on __Type { ofType { ...A } }`,
      'GRAPHQL_VALIDATION_FAILED',
    ],
  ])('%s', async (_, query, code) => {
    const answer = await post(server.url, { query });
    expect(answer.codes).toContain(code);
    expect(answer.body).not.toHaveProperty('data');
    expect(answer.text.length).toBeLessThan(2000);
  });

  test('a batch that asks more than once; the rest of it is answered', async () => {
    const answer = await post(server.url, [
      ...Array.from({ length: 9 }, () => ({ query: everything })),
      { query: '{ __typename }' },
    ]);
    expect(answer.codes).toEqual(Array.from({ length: 8 }, () => 'TOO_COSTLY'));
    expect(answer.text).toContain('{"data":{"__typename":"Query"}}');
    const one = await post(server.url, { query: everything });
    expect(answer.text.length).toBeLessThan(one.text.length + 5000);
  });
});

test.each([
  ['through a fragment', '{ ...F } fragment F on Query { __schema { types { name } } }'],
  ['through an inline fragment', '{ ... on Query { __schema { types { name } } } }'],
  ['beside other fields', '{ rateLimit { cost } __schema { types { name } } }'],
  [
    'two types',
    '{ ...F b: __type(name: "User") { name } } fragment F on Query { a: __type(name: "Run") { name } }',
    2000,
  ],
])('%s it costs no less, and a batch gets it once', async (_, query, price = 1000) => {
  const left = ({ headers }: RawAnswer) => Number(/r=(\d+)/.exec(String(headers['ratelimit']))?.[1]);
  const before = left(await post(server.url, { query: '{ __typename }' }));
  const answer = await post(server.url, [{ query }, { query }, { query }]);
  expect(answer.codes).toEqual(['TOO_COSTLY', 'TOO_COSTLY']);
  const spent = before - left(await post(server.url, { query: '{ __typename }' }));
  expect(spent).toBeGreaterThanOrEqual(price);
  expect(spent).toBeLessThan(price + 100);
});

test('it costs what an answer of its size costs', async () => {
  const remaining = async () => {
    const { body } = await post(server.url, { query: '{ rateLimit { remaining cost } }' });
    return (body as { data: { rateLimit: { remaining: number; cost: number } } }).data.rateLimit;
  };
  const before = await remaining();
  await post(server.url, { query: everything });
  const client = socket(server.url);
  for await (const { errors } of client.iterate({ query: everything })) expect(errors).toBeUndefined();
  await client.dispose();
  const after = await remaining();
  expect(before.remaining - after.remaining).toBe(2000 + after.cost);
});
