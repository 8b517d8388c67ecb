import SchemaBuilder from '@pothos/core';
import { parse } from 'graphql';
import { describe, expect, test } from 'vitest';
import { anonymous, type Actor } from '#kernel/auth/actor.ts';
import { allPolicies, authorize, may, type Verb } from '#kernel/auth/policy.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { DomainError } from '#kernel/errors.ts';
import { access, accessOf, admit, isPublic, rootFields, rootFieldsOf } from '#kernel/graphql/access.ts';
import { schema } from '../../../src/schema.ts';

const person: Actor = { ...anonymous, kind: 'SESSION', userId: 'u', credentialId: 's' };
const key: Actor = { ...person, kind: 'API_KEY', credentialId: 'k' };

test('whoever is not signed in may ask for these, and nothing else', () => {
  const open = rootFields(schema).filter(({ field }) => isPublic(accessOf(field)));
  expect(open.map(({ type, field }) => `${type.name}.${field.name}`).toSorted()).toMatchInlineSnapshot(`
    [
      "Mutation.declineInvitation",
      "Mutation.requestPasswordReset",
      "Mutation.resetPassword",
      "Mutation.signIn",
      "Mutation.signOut",
      "Mutation.signUp",
      "Mutation.verifyEmail",
      "Query.accountDeletion",
      "Query.invitation",
      "Query.rateLimit",
      "Query.signInMethods",
      "Query.viewer",
      "Query.workspaceDeletion",
    ]
  `);
});

test('a mutation has the access of the verb of its name', () => {
  const verbs = new Map(allPolicies().flatMap(({ verbs: of }) => Object.entries(of)));
  const other = rootFields(schema).filter(
    ({ type, field }) => type.name === 'Mutation' && accessOf(field) !== verbs.get(field.name),
  );
  expect(other.map(({ field }) => field.name)).toEqual([]);
});

test('a root field without an access does not build', () => {
  const builder = new SchemaBuilder<object>({ plugins: [access] } as never);
  builder.queryType({
    fields: (t) => ({ open: t.int({ access: 'public', resolve: () => 1 }), closed: t.int({ resolve: () => 1 }) }),
  });
  expect(() => builder.toSchema()).toThrow('Query.closed');
});

describe('what is known of a right beforehand', () => {
  const verb = (least: 'public' | 'user' | 'MEMBER') => ({ name: 'domain.verb', least }) as const;
  const outcome = (actor: Actor, declared: Parameters<typeof admit>[1]): string => {
    try {
      admit(actor, declared, { kind: 'Mutation', name: 'field' });
      return 'admitted';
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  const scoped: Actor = { ...key, scopes: new Set(['domain.verb']) };
  const elsewhere: Actor = { ...key, scopes: new Set(['domain.other']) };

  test.each([
    ['public', 'admitted', 'admitted', 'admitted', 'admitted'],
    ['member', 'UNAUTHENTICATED', 'admitted', 'admitted', 'admitted'],
    ['user', 'UNAUTHENTICATED', 'admitted', 'FORBIDDEN', 'FORBIDDEN'],
    [verb('public'), 'admitted', 'admitted', 'admitted', 'admitted'],
    [verb('user'), 'UNAUTHENTICATED', 'admitted', 'FORBIDDEN', 'FORBIDDEN'],
    [verb('MEMBER'), 'UNAUTHENTICATED', 'admitted', 'admitted', 'FORBIDDEN'],
  ] as const)('%o', (declared, stranger, signedIn, withKey, withOtherKey) => {
    expect(outcome(anonymous, declared)).toBe(stranger);
    expect(outcome(person, declared)).toBe(signedIn);
    expect(outcome(key, declared)).toBe(withKey);
    expect(outcome(elsewhere, declared)).toBe(withOtherKey);
    expect(outcome(scoped, declared)).toBe(withKey);
  });
});

function isLet(...asked: Parameters<typeof authorize>): boolean {
  try {
    authorize(...asked);
    return true;
  } catch (error) {
    if (error instanceof DomainError) return false;
    throw error;
  }
}

test('what an actor is told that they may do is what they may do', () => {
  const roles = new Map([['w', 'ADMIN'], [instanceWorkspaceId, 'OWNER']] as const); // prettier-ignore
  const verb = (least: Verb['least'], more: object = {}): Verb => ({ name: 'domain.verb', least, ...more });
  const admin: Actor = { ...person, roles };
  const machine: Actor = { ...anonymous, kind: 'MACHINE', roles };
  for (const [actor, asked, workspaceId, expected] of [
    [admin, verb('ADMIN'), 'w', true],
    [admin, verb('OWNER'), 'w', false],
    [admin, verb('VIEWER'), 'elsewhere', false],
    [admin, verb('VIEWER'), instanceWorkspaceId, false],
    [admin, verb('VIEWER', { inInstance: true }), instanceWorkspaceId, true],
    [machine, verb('MEMBER'), 'w', true],
    [machine, verb('ADMIN'), 'w', false],
    [{ ...key, roles, scopes: new Set(['domain.verb']) }, verb('MEMBER'), 'w', true],
    [{ ...key, roles, scopes: new Set<string>() }, verb('MEMBER'), 'w', false],
    [anonymous, verb('VIEWER'), 'w', false],
    [anonymous, verb('public'), 'w', true],
    [key, verb('user'), 'w', false],
  ] as const) {
    expect(may(actor, asked, workspaceId)).toBe(expected);
    expect(isLet(actor, asked, workspaceId)).toBe(expected);
  }
});

describe('the root fields of an operation are found', () => {
  test.each([
    ['plainly', '{ viewer { id } }', ['viewer']],
    ['under aliases', '{ a: workspaces { totalCount } }', ['workspaces']],
    [
      'in fragments, inline and not',
      '{ ... on Query { ...A } } fragment A on Query { ...B viewer { id } } fragment B on Query { workspaces { totalCount } }',
      ['workspaces', 'viewer'],
    ],
    ['whatever is skipped', '{ workspaces @include(if: false) { totalCount } }', ['workspaces']],
    ['of the operation that is meant', 'query A { viewer { id } } query B { workspaces { totalCount } }', ['viewer']],
    ['of a mutation', 'mutation A { signOut { __typename } }', ['signOut']],
    ['not those of introspection', '{ __typename __schema { types { name } } }', []],
  ])('%s', (_, text, names) => {
    expect(rootFieldsOf(schema, parse(text), text.includes('query A') ? 'A' : null).map(({ name }) => name)).toEqual(
      names,
    );
  });
});
