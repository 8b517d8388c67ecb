import DataLoader from 'dataloader';
import { Role, type User } from '#prisma';
import type { Context } from '../graphql/context.ts';
import { builder } from '../graphql/builder.ts';
import { guarded, newestFirst, visible } from '../graphql/kit.ts';
import { self } from './policy.ts';
import './row-policy.ts';

export const RoleEnum = builder.enumType(Role, {
  name: 'Role',
  description: 'What a member may do: OWNER > ADMIN > MEMBER > VIEWER. Each includes those below it.',
  values: {
    OWNER: { description: 'May do everything, deleting the workspace included.' },
    ADMIN: { description: 'May manage members, keys and settings.' },
    MEMBER: { description: 'May start and change operations.' },
    VIEWER: { description: 'May look.' },
  },
});

export const UserRef = builder.prismaNode('User', {
  id: { field: 'id' },
  description: 'A person who can sign in. Seen by themselves and by people who share a workspace with them.',
  ...guarded('User'),
  fields: (t) => ({
    email: t.exposeString('email'),
    name: t.exposeString('name'),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When they registered.' }),
  }),
});

const users = new WeakMap<Context, DataLoader<string, User | null>>();

/** People of many rows in one statement; null for those whom the viewer may not see. */
export function loadUser(context: Context, id: string | null): Promise<User | null> | null {
  if (!id) return null;
  let loader = users.get(context);
  if (!loader) {
    loader = new DataLoader<string, User | null>(async (ids) => {
      const found = await context.app.db.user.findMany({ where: visible(context, 'User', { id: { in: [...ids] } }) });
      const byId = new Map(found.map((user) => [user.id, user]));
      return ids.map((one) => byId.get(one) ?? null);
    });
    users.set(context, loader);
  }
  return loader.load(id);
}

export const MembershipRef = builder.prismaNode('Membership', {
  id: { field: 'id' },
  description: "One person's place in one workspace.",
  ...guarded('Membership'),
  fields: (t) => ({
    role: t.expose('role', { type: RoleEnum, description: 'What they may do.' }),
    user: t.relation('user', { description: 'The person.' }),
    workspace: t.relation('workspace', { description: 'The workspace.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'Since when.' }),
  }),
});

export const ApiKeyRef = builder.prismaNode('ApiKey', {
  id: { field: 'id' },
  description:
    'A credential for programs, bound to one workspace. Seen by its maker and by administrators. The key itself is shown once, when it is made.',
  ...guarded('ApiKey'),
  fields: (t) => ({
    name: t.exposeString('name'),
    prefix: t.exposeString('prefix'),
    role: t.expose('role', {
      type: RoleEnum,
      description: "The key acts with this role, or its maker's if that is lower.",
    }),
    scopes: t.exposeStringList('scopes', {
      description: 'Verbs that it may use; `*` alone: all that its role has; none: it only reads.',
    }),
    createdBy: t.relation('createdBy', { description: 'Who made it. The key ends with their membership.' }),
    workspace: t.relation('workspace', { description: 'The workspace that it reaches.' }),
    expiresAt: t.expose('expiresAt', {
      type: 'DateTime',
      nullable: true,
      description: 'Refused from then on; null: it does not expire.',
    }),
    revokedAt: t.expose('revokedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was revoked; null: it was not.',
    }),
    lastSeenAt: t.expose('lastSeenAt', { type: 'DateTime', nullable: true, description: 'Last use, to the minute.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was made.' }),
  }),
});

export const InvitationRef = builder.prismaNode('Invitation', {
  id: { field: 'id' },
  description: 'Somebody was asked by mail to become a member, and has not answered yet. Seen by administrators.',
  ...guarded('Invitation'),
  fields: (t) => ({
    email: t.exposeString('email'),
    role: t.expose('role', { type: RoleEnum, description: 'What they become.' }),
    invitedBy: t.relation('invitedBy', { description: 'Who asked.' }),
    workspace: t.relation('workspace', { description: 'The workspace.' }),
    expiresAt: t.expose('expiresAt', {
      type: 'DateTime',
      description: 'It cannot be accepted from then on; it can be sent again.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When they were first asked.' }),
  }),
});

export const WorkspaceRef = builder.prismaNode('Workspace', {
  id: { field: 'id' },
  description: 'A tenant. Everything else belongs to exactly one, and nothing is reachable from another.',
  ...guarded('Workspace'),
  fields: (t) => ({
    name: t.exposeString('name'),
    slug: t.exposeString('slug'),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
    viewerRole: t.field({
      type: RoleEnum,
      nullable: true,
      description: 'Your role in it, with this credential.',
      compiled: { role: 'id' },
      resolve: (workspace, _, { actor }) => actor.roles.get(workspace.id) ?? null,
    }),
    memberships: t.relatedConnection('memberships', {
      cursor: 'id',
      totalCount: true,
      description: 'Its members, newest first.',
      query: (_, context) => ({ where: visible(context, 'Membership'), orderBy: newestFirst }),
    }),
    invitations: t.relatedConnection('invitations', {
      cursor: 'id',
      totalCount: true,
      description: 'People who were asked and have not answered, newest first. For administrators; others see none.',
      query: (_, context) => ({ where: visible(context, 'Invitation'), orderBy: newestFirst }),
    }),
    apiKeys: t.relatedConnection('apiKeys', {
      cursor: 'id',
      totalCount: true,
      description: 'Its API keys that you may see, revoked ones included, newest first.',
      query: (_, context) => ({ where: visible(context, 'ApiKey'), orderBy: newestFirst }),
    }),
  }),
});

builder.queryFields((t) => ({
  viewer: t.prismaField({
    access: 'public',
    type: UserRef,
    nullable: true,
    compiled: { one: 'User', rule: self('id') },
    description: 'The person who asks (for an API key: its maker); null when nobody is signed in.',
    resolve: (query, _, __, { app, actor }) =>
      actor.userId ? app.db.user.findUnique({ ...query, where: { id: actor.userId } }) : null,
  }),
  workspaces: t.prismaConnection({
    access: 'member',
    type: WorkspaceRef,
    cursor: 'id',
    description: 'The workspaces that you reach, newest first.',
    compiled: {
      page: 'Workspace',
      rows: (_, context) => ({ where: visible(context, 'Workspace'), orderBy: newestFirst }),
    },
    totalCount: (_, __, context) => context.app.db.workspace.count({ where: visible(context, 'Workspace') }),
    resolve: (query, _, __, context) =>
      context.app.db.workspace.findMany({ ...query, where: visible(context, 'Workspace'), orderBy: newestFirst }),
  }),
  workspace: t.prismaField({
    access: 'member',
    type: WorkspaceRef,
    nullable: true,
    description: 'A workspace by its short name; null when there is none that you reach.',
    args: { slug: t.arg.string({ description: 'Its short name.' }) },
    compiled: { one: 'Workspace', by: { slug: 'slug' } },
    resolve: (query, _, { slug }, context) =>
      context.app.db.workspace.findFirst({ ...query, where: visible(context, 'Workspace', { slug }) }),
  }),
}));
