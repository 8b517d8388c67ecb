import { RoleEnum, WorkspaceRef } from '#kernel/auth/schema.ts';
import { Conflict, RateLimited } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, eventCursor, failing, guarded, newestFirst, visible } from '#kernel/graphql/kit.ts';
import { DomainNotVerified, LastWayIn, ReauthenticationRequired, SsoMisconfigured, SsoNotReady } from '../errors.ts';
import { can } from '../policy.ts';
import {
  challengeRecord,
  External,
  Outside,
  OutsideSignIns,
  Sso,
  ssoCallbackPath,
  ssoPath,
  type SignInMethods,
} from '../service/index.ts';
import { proof, workspaceId, type Written } from './shared.ts';

const ProblemEnum = builder.enumType('SsoProblem', {
  description: 'What is wrong with a provider.',
  values: {
    ADDRESS_REFUSED: { description: 'One of its addresses is not https, or not public.' },
    UNREACHABLE: { description: 'It does not answer.' },
    NO_PROVIDER: { description: 'There is no usable discovery document at the issuer.' },
    ISSUER_MISMATCH: { description: 'It calls itself otherwise than the issuer that was given, if only by a slash.' },
    UNSUPPORTED: { description: 'It lacks the authorization code flow, PKCE with S256, or an address for it.' },
  } as const,
});

errorType(SsoMisconfigured, {
  name: 'SsoMisconfigured',
  description: 'The provider cannot be used as it was given.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ reason: t.expose('reason', { type: ProblemEnum, description: 'What is wrong.' }) }),
});
errorType(DomainNotVerified, {
  name: 'DomainNotVerified',
  description: "The challenge was not found in the domain's DNS.",
  interfaces: [ErrorInterface],
  fields: (t) => ({ record: t.exposeString('record', { description: 'Name of the TXT record that must hold it.' }) }),
});
errorType(SsoNotReady, {
  name: 'SsoNotReady',
  description: 'There is no provider that is switched on, or no verified domain.',
  interfaces: [ErrorInterface],
});
errorType(LastWayIn, {
  name: 'LastWayIn',
  description: 'Without it you could not sign in any more.',
  interfaces: [ErrorInterface],
});

const SsoConnectionRef = builder.prismaNode('SsoConnection', {
  id: { field: 'id' },
  description: "An OpenID Connect provider that vouches for a workspace's people. Seen by administrators.",
  ...guarded('SsoConnection'),
  fields: (t) => ({
    name: t.exposeString('name'),
    issuer: t.exposeString('issuer'),
    clientId: t.exposeString('clientId', { description: 'How the provider knows this server.' }),
    hasClientSecret: t.boolean({
      description: 'Whether it has a client secret, which is never shown.',
      resolve: ({ clientSecret }) => clientSecret !== null,
    }),
    provisionRole: t.expose('provisionRole', {
      type: RoleEnum,
      nullable: true,
      description: 'Role of people who come for the first time; null: only people who are members already come in.',
    }),
    trustEmail: t.exposeBoolean('trustEmail', {
      description: 'Addresses count as verified where the provider does not say whether they are.',
    }),
    signInPath: t.string({
      description: 'Path on this server where browsers begin; `?returnTo=` says where they go when they are signed in.',
      resolve: ({ id }) => ssoPath(id),
    }),
    redirectUri: t.string({
      description:
        'Redirect URI to register at the provider, exactly and as the only one: where browsers come back to. No other connection has the same.',
      resolve: ({ id }, _, { app }) => `${app.use(Outside).baseUrl()}${ssoCallbackPath(id)}`,
    }),
    workspace: t.relation('workspace', { description: 'The workspace.' }),
    disabledAt: t.expose('disabledAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was switched off; nobody comes in by it.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was set up.' }),
  }),
});

const SsoDomainRef = builder.prismaNode('SsoDomain', {
  id: { field: 'id' },
  description:
    'An e-mail domain that a workspace says is its own. Only people with such an address come in by its providers. Seen by administrators.',
  ...guarded('SsoDomain'),
  fields: (t) => ({
    domain: t.exposeString('domain'),
    record: t.string({
      description: 'Name of the TXT record that must hold the challenge.',
      resolve: ({ domain }) => challengeRecord(domain),
    }),
    challenge: t.exposeString('challenge', { description: 'Text of that record.' }),
    verifiedAt: t.expose('verifiedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was found there; null: not yet.',
    }),
    workspace: t.relation('workspace', { description: 'The workspace.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was added.' }),
  }),
});

builder.prismaNode('ExternalIdentity', {
  id: { field: 'id' },
  description: 'Who you are at another system that vouches for you. Seen by yourself only.',
  ...guarded('ExternalIdentity'),
  fields: (t) => ({
    provider: t.exposeString('provider', { description: '`github`, `sso:<id of the connection>` or `jwt:<issuer>`.' }),
    subject: t.exposeString('subject', { description: 'Your id there.' }),
    scopes: t.exposeStringList('scopes', {
      description: 'What you allowed this server there, as that system calls it; the token itself is never shown.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'Since when.' }),
  }),
});

builder.prismaObjectField('User', 'identities', (t) =>
  t.relation('identities', {
    description: 'Other systems that vouch for you, newest first. Of other people none is shown.',
    query: (_, context) => ({ where: visible(context, 'ExternalIdentity'), orderBy: newestFirst }),
  }),
);

builder.prismaObjectFields('Workspace', (t) => ({
  ssoEnforced: t.exposeBoolean('ssoEnforced', {
    description: 'Whether members other than owners must come in by one of its providers.',
  }),
  ssoConnections: t.relatedConnection('ssoConnections', {
    cursor: 'id',
    totalCount: true,
    description: 'Its providers, newest first. For administrators; others see none.',
    query: (_, context) => ({ where: visible(context, 'SsoConnection'), orderBy: newestFirst }),
  }),
  ssoDomains: t.relatedConnection('ssoDomains', {
    cursor: 'id',
    totalCount: true,
    description: 'Its e-mail domains, newest first. For administrators; others see none.',
    query: (_, context) => ({ where: visible(context, 'SsoDomain'), orderBy: newestFirst }),
  }),
}));

const SsoWayRef = builder.objectRef<SignInMethods['sso'][number]>('SsoWay').implement({
  description: 'A provider by which people of a domain come in.',
  fields: (t) => ({
    name: t.exposeString('name', { description: 'Its name, for a button.' }),
    url: t.exposeString('url', {
      description: 'Where to send the browser; `?returnTo=` says where it goes when it is signed in.',
    }),
  }),
});

const SignInMethodsRef = builder.objectRef<SignInMethods>('SignInMethods').implement({
  description: 'Ways in for an e-mail address, by its domain. It does not tell whether there is an account.',
  fields: (t) => ({
    password: t.exposeBoolean('password', { description: 'Whether passwords are taken.' }),
    github: t.exposeBoolean('github', { description: 'Whether people sign in with GitHub, at `/auth/github`.' }),
    sso: t.field({
      type: [SsoWayRef],
      description: 'Providers of workspaces that have verified the domain, at most 20.',
      resolve: ({ sso }) => [...sso],
    }),
  }),
});

builder.queryField('signInMethods', (t) =>
  t.field({
    access: 'public',
    type: SignInMethodsRef,
    description: 'Which ways in an e-mail address has.',
    args: { email: t.arg.string({ description: 'The address.' }) },
    resolve: (_, { email }, { app }) => app.use(Sso).signInMethods(email),
  }),
);

const connectionSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      ssoConnection: t.prismaField({
        type: SsoConnectionRef,
        description: 'The provider.',
        resolve: (query, { id }, _, { app }) => app.db.ssoConnection.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const domainSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      ssoDomain: t.prismaField({
        type: SsoDomainRef,
        description: 'The domain.',
        resolve: (query, { id }, _, { app }) => app.db.ssoDomain.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const connectionId = { description: 'Global id of the provider.' };
const domainId = { description: 'Global id of the domain.' };
const nameOfConnection = 'Name shown on the sign-in page, 1 to 120 characters.';
const clientSecretOf = 'Its secret, which is stored encrypted and never shown';
const provisionRoleOf =
  'Role of people who come for the first time: ADMIN, MEMBER or VIEWER, not above your own; null: only members come in.';
const trustEmailOf =
  'Take addresses for verified where the provider does not say; only for one that lets nobody choose their own.';

const LinkableEnum = builder.enumType('LinkableProvider', {
  description: 'A system that people link to their accounts themselves.',
  values: {
    GITHUB: { description: 'GitHub; where it is not set up, the address refuses with PROVIDER_UNKNOWN.' },
  } as const,
});

builder.mutationFields((t) => ({
  createSsoConnection: t.fieldWithInput({
    access: can.createSsoConnection,
    type: connectionSuccess('CreateSsoConnectionSuccess', 'The provider was set up.'),
    errors: failing(SsoMisconfigured),
    description:
      'Sets up an OpenID Connect provider for a workspace, after a look at its discovery document. People come in once a domain is verified.',
    input: {
      workspaceId: t.input.id(workspaceId),
      name: t.input.string({ description: nameOfConnection }),
      issuer: t.input.string({ description: 'Issuer identifier, exactly as its discovery document says it.' }),
      clientId: t.input.string({ description: 'How the provider knows this server.' }),
      clientSecret: t.input.string({
        required: false,
        description: `${clientSecretOf}. Without one the client is public.`,
      }),
      provisionRole: t.input.field({ type: RoleEnum, required: false, description: provisionRoleOf }),
      trustEmail: t.input.boolean({ required: false, description: trustEmailOf }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Sso).createSsoConnection(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  updateSsoConnection: t.fieldWithInput({
    access: can.updateSsoConnection,
    type: connectionSuccess('UpdateSsoConnectionSuccess', 'The settings were changed.'),
    errors: failing(SsoMisconfigured),
    description:
      'Changes the settings of a provider. What is left out stays. For another issuer set up another provider.',
    input: {
      id: t.input.id(connectionId),
      name: t.input.string({ required: false, description: nameOfConnection }),
      clientId: t.input.string({ required: false, description: 'How the provider knows this server.' }),
      clientSecret: t.input.string({ required: false, description: `${clientSecretOf}; null: none any more.` }),
      provisionRole: t.input.field({ type: RoleEnum, required: false, description: provisionRoleOf }),
      trustEmail: t.input.boolean({ required: false, description: trustEmailOf }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Sso).updateSsoConnection(actor, { ...input, id: rowId('SsoConnection', input.id) }),
  }),
  disableSsoConnection: t.fieldWithInput({
    access: can.disableSsoConnection,
    type: connectionSuccess(
      'DisableSsoConnectionSuccess',
      'Nobody comes in by it any more; the sessions that it vouched for have ended.',
    ),
    errors: failing(SsoNotReady),
    description: 'Switches a provider off, for good; not the last one while the workspace enforces them.',
    input: { id: t.input.id(connectionId) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Sso).disableSsoConnection(actor, rowId('SsoConnection', input.id)),
  }),
  addSsoDomain: t.fieldWithInput({
    access: can.addSsoDomain,
    type: domainSuccess('AddSsoDomainSuccess', 'Put its challenge into the DNS, then call `verifySsoDomain`.'),
    errors: failing(Conflict),
    description: 'Says that an e-mail domain is the workspace’s own. Domains of public mail providers are refused.',
    input: {
      workspaceId: t.input.id(workspaceId),
      domain: t.input.string({ description: 'For instance example.com. Its subdomains are other domains.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Sso).addSsoDomain(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  verifySsoDomain: t.fieldWithInput({
    access: can.verifySsoDomain,
    type: domainSuccess('VerifySsoDomainSuccess', 'The domain is the workspace’s own.'),
    errors: failing(DomainNotVerified, Conflict),
    description: 'Looks for the challenge in the DNS. A domain is verified for one workspace only: the first.',
    input: { id: t.input.id(domainId) },
    resolve: (_, { input }, { app, actor }) => app.use(Sso).verifySsoDomain(actor, rowId('SsoDomain', input.id)),
  }),
  removeSsoDomain: t.fieldWithInput({
    access: can.removeSsoDomain,
    type: builder.objectRef<Written>('RemoveSsoDomainSuccess').implement({
      description: 'Nobody with an address of it comes in by the workspace’s providers any more.',
      fields: (f) => ({
        ssoDomainId: f.id({
          description: 'Global id that the domain had.',
          resolve: ({ id }) => globalId('SsoDomain', id),
        }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(SsoNotReady),
    description:
      'Gives a domain up. Sessions go on. Not the last one that is verified while the workspace enforces its providers.',
    input: { id: t.input.id(domainId) },
    resolve: (_, { input }, { app, actor }) => app.use(Sso).removeSsoDomain(actor, rowId('SsoDomain', input.id)),
  }),
  setSsoEnforced: t.fieldWithInput({
    access: can.setSsoEnforced,
    type: builder.objectRef<Written>('SetSsoEnforcedSuccess').implement({
      description: 'It holds from now on, also for open streams.',
      fields: (f) => ({
        workspace: f.prismaField({
          type: WorkspaceRef,
          description: 'The workspace.',
          resolve: (query, { id }, _, { app }) => app.db.workspace.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(SsoNotReady),
    description:
      'Says whether members must come in by the workspace’s providers. Owners still reach it by any way in, so that they can mend the provider; API keys go on.',
    input: {
      workspaceId: t.input.id(workspaceId),
      enforced: t.input.boolean({ description: 'Whether they must.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Sso).setSsoEnforced(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  beginIdentityLink: t.fieldWithInput({
    access: can.beginIdentityLink,
    type: builder.objectRef<{ url: string }>('BeginIdentityLinkSuccess').implement({
      description: 'Send the browser of this session to the address.',
      fields: (f) => ({
        url: f.exposeString('url', {
          description:
            'Where to send the browser, within five minutes; good once, and with the cookie of this session only. `&returnTo=` says where it goes afterwards.',
        }),
      }),
    }),
    errors: failing(ReauthenticationRequired, RateLimited),
    description:
      'Begins to link who you are at another system to your account, so that you can sign in there. You are told by mail.',
    input: {
      provider: t.input.field({ type: LinkableEnum, description: 'The other system.' }),
      password: t.input.string(proof),
    },
    resolve: async (_, { input }, { app, actor }) => ({
      url: await app.use(OutsideSignIns).beginIdentityLink(actor, input),
    }),
  }),
  unlinkIdentity: t.fieldWithInput({
    access: can.unlinkIdentity,
    type: builder.objectRef<{ id: string }>('UnlinkIdentitySuccess').implement({
      description: 'That system does not vouch for you any more.',
      fields: (f) => ({
        identityId: f.id({
          description: 'Global id that the identity had.',
          resolve: ({ id }) => globalId('ExternalIdentity', id),
        }),
      }),
    }),
    errors: failing(LastWayIn, ReauthenticationRequired, RateLimited),
    description: 'Ends the link between your account and another system. You are told by mail.',
    input: {
      id: t.input.id({ description: 'Global id of the identity.' }),
      password: t.input.string(proof),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(External).unlinkIdentity(actor, { ...input, id: rowId('ExternalIdentity', input.id) }),
  }),
}));
