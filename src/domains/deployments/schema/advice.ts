import DataLoader from 'dataloader';
import { ModelAdvice, RecommendationSource } from '#prisma';
import type { Appended } from '#kernel/db/transact.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing, guardedPart } from '#kernel/graphql/kit.ts';
import { Llm } from '#kernel/llm.ts';
import { can } from '../policy.ts';
import { DeploymentRef } from '../schema.ts';
import { Advice } from '../service/index.ts';
import { SeverityEnum } from './security.ts';

const ModelAdviceEnum = builder.enumType(ModelAdvice, {
  name: 'ModelAdviceStatus',
  description: 'What became of the question to the language model.',
  values: {
    OFF: { description: 'The server has none.' },
    NOT_ALLOWED: { description: 'The workspace does not allow it: see `setModelAdvice`.' },
    LATER: {
      description:
        'It has not answered yet: it is asked when what was deployed has served for a while, or is being asked.',
    },
    LIMITED: { description: 'It was asked as often as the workspace may within 24 hours.' },
    ANSWERED: { description: 'It answered, maybe with no advice that has evidence.' },
    FAILED: { description: 'It gave no answer that can be used; `modelReason` tells why.' },
  },
});

const SourceEnum = builder.enumType(RecommendationSource, {
  name: 'RecommendationSource',
  description: 'Where advice comes from.',
  values: {
    RULES: { description: 'A rule of this server.' },
    MODEL: { description: 'A language model. It may be wrong; look at the evidence.' },
  },
});

const EvidenceKindEnum = builder.enumType('EvidenceKind', {
  description: 'What advice is drawn from.',
  values: {
    FINDING: { description: "A finding of the deployment's security scan; `ref` is its fingerprint." },
    LOG_LINE: { description: "A line of the deployment's output; `ref` is its `seq`." },
    METRIC: { description: 'A figure of what serves; `ref` is its name.' },
    STEP: { description: 'A step of the deployment; `ref` is its name.' },
    SCANNER: { description: 'What a scanner said of itself; `ref` is its name.' },
  } as const,
});

interface EvidenceRow {
  readonly kind: 'FINDING' | 'LOG_LINE' | 'METRIC' | 'STEP' | 'SCANNER';
  readonly ref: string;
  readonly text: string;
}

const EvidenceRef = builder.objectRef<EvidenceRow>('RecommendationEvidence').implement({
  description: 'One thing that advice is drawn from.',
  fields: (t) => ({
    kind: t.expose('kind', { type: EvidenceKindEnum, description: 'What it is.' }),
    ref: t.exposeString('ref', { description: 'Which one, by kind.' }),
    text: t.exposeString('text', { description: 'What is said there, shortened.' }),
  }),
});

builder.prismaObject('Recommendation', {
  description: 'One piece of advice on a deployment.',
  authScopes: guardedPart('Recommendation').authScopes,
  fields: (t) => ({
    severity: t.expose('severity', { type: SeverityEnum, description: 'How much depends on it.' }),
    title: t.exposeString('title', { description: 'What it is about, in a line.' }),
    text: t.exposeString('text', { description: 'What to do, and why. Plain text: show it as such.' }),
    source: t.expose('source', { type: SourceEnum, description: 'Where it comes from.' }),
    madeBy: t.exposeString('madeBy', { description: 'Name of the rule, or of the model.' }),
    evidence: t.field({
      type: [EvidenceRef],
      description: 'What it is drawn from, one thing at least.',
      resolve: ({ evidence }) => evidence as unknown as EvidenceRow[],
    }),
  }),
});

const AdviceRef = builder.prismaObject('Advice', {
  name: 'DeploymentAdvice',
  description: 'What there is to say about a deployment that is over.',
  authScopes: guardedPart('Advice').authScopes,
  fields: (t) => ({
    madeAt: t.expose('madeAt', { type: 'DateTime', description: 'When it was looked at, last.' }),
    isFinal: t.exposeBoolean('isFinal', {
      description:
        'Whether it is looked at no more. What serves is looked at again after 15 minutes, with its figures.',
    }),
    modelStatus: t.expose('model', {
      type: ModelAdviceEnum,
      description: 'What became of the question to the language model.',
    }),
    modelReason: t.exposeString('modelReason', { nullable: true }),
    recommendations: t.relation('recommendations', {
      description: 'What is recommended, the most important first.',
      query: { orderBy: [{ severity: 'asc' }, { id: 'asc' }] },
    }),
  }),
});

builder.prismaObjectField(DeploymentRef, 'advice', (t) =>
  t.field({
    type: AdviceRef,
    nullable: true,
    description:
      'What is recommended after it; null: it is not over, was not looked at yet, or was canceled. The event `deployment.advised` tells when that changes.',
    compiled: 'selected',
    select: (_args, _context, nested) => ({ deployment: { select: { advice: nested() } } }),
    resolve: (run) => (run as unknown as { deployment: { advice: never } | null }).deployment?.advice ?? null,
  }),
);

const loaders = new WeakMap<Context, DataLoader<string, boolean>>();

/** Of many workspaces in one statement. Nothing is remembered: a later mutation of the operation changes it. */
function allowed(context: Context, workspaceId: string): Promise<boolean> {
  let loader = loaders.get(context);
  if (!loader) {
    loader = new DataLoader((ids: readonly string[]) => context.app.use(Advice).allowed(ids), { cache: false });
    loaders.set(context, loader);
  }
  return loader.load(workspaceId);
}

const ModelAdviceRef = builder.objectRef<{ workspaceId: string }>('ModelAdvice').implement({
  description: "Whether the server's language model gives advice on a workspace's deployments.",
  fields: (t) => ({
    model: t.string({
      nullable: true,
      description: "Name of the server's model; null: it has none.",
      resolve: (_parent, _args, { app }) => app.use(Llm).model?.name ?? null,
    }),
    allowed: t.boolean({
      description: 'Whether the workspace allows that the model is told of its deployments; at first it does not.',
      resolve: ({ workspaceId }, _, context) => allowed(context, workspaceId),
    }),
  }),
});

builder.prismaObjectField('Workspace', 'modelAdvice', (t) =>
  t.field({
    type: ModelAdviceRef,
    description: "Whether the server's language model gives advice on its deployments.",
    select: { id: true },
    resolve: ({ id }) => ({ workspaceId: id }),
  }),
);

builder.mutationFields((t) => ({
  setModelAdvice: t.fieldWithInput({
    access: can.setModelAdvice,
    type: builder.objectRef<{ workspaceId: string; event: Appended }>('SetModelAdviceSuccess').implement({
      description: 'It holds for deployments that are looked at from now on.',
      fields: (f) => ({
        modelAdvice: f.field({ type: ModelAdviceRef, description: 'What holds now.', resolve: (done) => done }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(),
    description:
      "Says whether what is known of a workspace's deployments (findings, output, figures; secrets are masked) may be told to the language model that the operator of the server has configured.",
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      allowed: t.input.boolean({ description: 'True: it may.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Advice).allowModel(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
}));
