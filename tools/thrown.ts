// Looks whether every domain error that a mutation's verb can throw is a member of its union: what is not would reach
// the client as an error of the whole answer, which its types do not tell of. What is called is followed through the
// program by its types; of an interface, into all that implement it. An error that is caught counts as thrown, unless
// `impossible` says why it is not.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Node, SourceFile } from 'typescript/unstable/ast';
import {
  isArrowFunction,
  isCallExpression,
  isClassDeclaration,
  isFunctionDeclaration,
  isFunctionExpression,
  isGetAccessorDeclaration,
  isIdentifier,
  isInterfaceDeclaration,
  isMethodDeclaration,
  isMethodSignatureDeclaration,
  isNewExpression,
  isObjectLiteralExpression,
  isPropertyAccessExpression,
  isPropertyAssignment,
  isPropertyDeclaration,
  isPropertySignatureDeclaration,
  isShorthandPropertyAssignment,
  isStringLiteral,
  isTypeNode,
  isVariableDeclaration,
} from 'typescript/unstable/ast/is';
import { API, SymbolFlags, type Symbol } from 'typescript/unstable/sync';

/** What cannot come out of a function although something below it throws it: `file#function`, the errors, and why. */
const impossible: readonly (readonly [string, readonly string[], string])[] = [
  ['src/domains/identity/service/addresses.ts#notify', ['MailNotConfigured'], 'it asks first whether mail leaves'],
  ['src/domains/identity/service/accounts.ts#signUp', ['MailNotConfigured'], 'it asks first whether mail leaves'],
  ['src/kernel/runs/stopping.ts#stopWithin', ['IllegalTransition'], 'it leaves alone what is over'],
  [
    'src/kernel/runs/stopping.ts#giveUpWithin',
    ['IllegalTransition'],
    'what is not over can be canceled, by way of CANCELING',
  ],
  ['src/domains/deployments/service/deployments.ts#start', ['IllegalTransition'], 'it ends what has not begun'],
  [
    'src/domains/deployments/service/previews.ts#deploy',
    ['DriverNotOffered', 'NoFreeUser', 'NoHost', 'QuotaExceeded'],
    'the preview waits, and says why',
  ],
  [
    'src/domains/documents/service/corrections.ts#change',
    ['IllegalTransition', 'NotInReview'],
    'it ends a review that it has seen waiting, with the run locked',
  ],
  [
    'src/domains/documents/service/jobs.ts#retryInput',
    ['DocumentQuarantined', 'DocumentUnsupported'],
    'there was a job of the document, and neither comes over one later',
  ],
  ['src/integrations/extractors/http.ts#createHttpExtractor', ['OutboundRefused'], 'it makes what the next one uses'],
  ['src/integrations/extractors/http.ts#send', ['OutboundRefused'], 'it is told as ExtractorUnavailable'],
];

/** What any mutation may say: see `failing`. */
const common = ['ValidationError', 'NotFound', 'Forbidden', 'Unauthenticated'];

/** Declared functions of the program's own bootstrap, which no request calls. */
const isStart = (file: string): boolean => file === 'src/start.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const api = new API({ cwd: root });
const project = api
  .updateSnapshot({ openProjects: [path.join(root, 'tsconfig.json')] })
  .getProject(path.join(root, 'tsconfig.json'));
if (!project) throw new Error('There is no project of tsconfig.json');
const { program, checker } = project;

const isOwn = (file: string): boolean => file.startsWith(`${root}src/`) && !file.includes('/generated/');
const fileOf = (node: Node): string => path.relative(root, node.getSourceFile().fileName);
const keyOf = (node: Node): string => `${fileOf(node)}:${node.pos}:${node.kind}`;
const nameOf = (node: Node): string | undefined => {
  const { name } = node as { name?: Node };
  return name?.getText();
};

function eachBelow(node: Node, see: (child: Node) => void): void {
  node.forEachChild((child) => {
    see(child);
    return undefined;
  });
}

/** What a name stands for, wherever it was imported from. */
function meant(node: Node): Symbol | undefined {
  const symbol = isShorthandPropertyAssignment(node.parent)
    ? checker.getShorthandAssignmentValueSymbol(node.parent)
    : checker.getSymbolAtLocation(node);
  return symbol && symbol.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
}

/** Where that is declared in src. */
const declared = (symbol: Symbol | undefined): Node[] =>
  (symbol?.declarations ?? []).flatMap((handle) => (isOwn(handle.path) ? (handle.resolve() ?? []) : []));

/** A class and those that it extends. */
function lineOf(symbol: Symbol): string[] {
  const above = declared(symbol).flatMap((node) =>
    isClassDeclaration(node) ? (node.heritageClauses ?? []).flatMap(({ types }) => [...types]) : [],
  );
  const parents = above.map(({ expression }) => meant(expression)).filter((parent) => parent !== undefined);
  return [symbol.name, ...parents.flatMap(lineOf)];
}

const sources: SourceFile[] = program
  .getSourceFileNames()
  .filter(isOwn)
  .flatMap((file) => program.getSourceFile(file) ?? []);

/** Classes and object literals by the interface that they implement. */
const implementers = new Map<number, Node[]>();
function collect(node: Node): void {
  const add = (symbol: Symbol | undefined): void => {
    if (symbol) implementers.set(symbol.id, [...(implementers.get(symbol.id) ?? []), node]);
  };
  if (isClassDeclaration(node))
    for (const { types } of node.heritageClauses ?? []) for (const { expression } of types) add(meant(expression));
  if (isObjectLiteralExpression(node) && node.properties.some(isFunctional)) {
    const type = checker.getContextualType(node)?.getSymbol();
    if (declared(type).some(isInterfaceDeclaration)) add(type);
  }
  eachBelow(node, collect);
}

const isFunctional = (member: Node): boolean =>
  isMethodDeclaration(member) ||
  isShorthandPropertyAssignment(member) ||
  (isPropertyAssignment(member) && (isArrowFunction(member.initializer) || isFunctionExpression(member.initializer)));

const membersOf = (node: Node): readonly Node[] => {
  const { members, properties } = node as { members?: readonly Node[]; properties?: readonly Node[] };
  return members ?? properties ?? [];
};

/** Whether a name is what a call calls. */
function isCalled(name: Node): boolean {
  const whole = isPropertyAccessExpression(name.parent) && name.parent.name === name ? name.parent : name;
  return isCallExpression(whole.parent) && whole.parent.expression === whole;
}

/** Where a name leads: to what is declared, or to what implements it. */
function leadsTo(name: Node): Node[] {
  return declared(meant(name)).flatMap((node) => {
    if (!isMethodSignatureDeclaration(node) && !isPropertySignatureDeclaration(node)) return [node];
    const owner = isInterfaceDeclaration(node.parent) && isCalled(name) ? meant(node.parent.name) : undefined;
    return (owner ? (implementers.get(owner.id) ?? []) : [])
      .flatMap(membersOf)
      .filter((member) => nameOf(member) === nameOf(node) && isFunctional(member) && !isStart(fileOf(member)));
  });
}

interface Body {
  /** What is thrown in it, with what that extends. */
  readonly throws: ReadonlyMap<string, readonly string[]>;
  readonly uses: ReadonlyMap<string, Node>;
}

/** Declarations that are not code which runs when they are named. */
const isDeclaration = (node: Node): boolean =>
  isVariableDeclaration(node) &&
  node.initializer !== undefined &&
  isCallExpression(node.initializer) &&
  /^(?:service|required|builder\..*|define\w*|errorType)$/.test(node.initializer.expression.getText());

const isCode = (node: Node): boolean =>
  isMethodDeclaration(node) ||
  isFunctionDeclaration(node) ||
  isPropertyAssignment(node) ||
  isShorthandPropertyAssignment(node) ||
  isPropertyDeclaration(node) ||
  isGetAccessorDeclaration(node) ||
  (isVariableDeclaration(node) && !isDeclaration(node));

const bodies = new Map<string, Body>();
function bodyOf(node: Node): Body {
  const key = keyOf(node);
  const known = bodies.get(key);
  if (known) return known;
  const throws = new Map<string, readonly string[]>();
  const uses = new Map<string, Node>();
  const see = (child: Node): void => {
    if (isTypeNode(child)) return;
    if (isNewExpression(child)) {
      const symbol = meant(child.expression);
      const line = symbol ? lineOf(symbol) : [];
      if (symbol && line.includes('DomainError')) throws.set(symbol.name, line);
    }
    if (isIdentifier(child)) {
      for (const target of leadsTo(child)) {
        const isWithin = fileOf(target) === fileOf(node) && target.pos >= node.pos && target.end <= node.end;
        if (!isWithin && isCode(target)) uses.set(keyOf(target), target);
      }
    }
    eachBelow(child, see);
  };
  eachBelow(node, see);
  const body = { throws, uses };
  bodies.set(key, body);
  return body;
}

interface Thrown {
  readonly line: readonly string[];
  readonly via: readonly string[];
}

const stale = new Set(impossible.map(([name]) => name));

/** All that can come out of a piece of code, with the way that it comes. */
function thrownBy(start: Node): Map<string, Thrown> {
  const found = new Map<string, Thrown>();
  const seen = new Set<string>();
  const queue = [{ node: start, via: [] as string[], without: [] as readonly string[] }];
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { node, via } = next;
    const [name, errors] = impossible.find(([place]) => place === `${fileOf(node)}#${nameOf(node)}`) ?? [];
    const without = errors ? [...new Set([...next.without, ...errors])].toSorted() : next.without;
    const state = `${keyOf(node)} ${without.join(' ')}`;
    if (seen.has(state)) continue;
    seen.add(state);
    const { throws, uses } = bodyOf(node);
    for (const [error, line] of throws) {
      if (!without.includes(error)) found.set(error, found.get(error) ?? { line, via: [...via, fileOf(node)] });
      else
        for (const [place] of impossible)
          if (place === name || via.includes(place.split('#')[1] ?? '')) stale.delete(place);
    }
    for (const target of uses.values()) queue.push({ node: target, via: [...via, nameOf(target) ?? '?'], without });
  }
  return found;
}

/** The classes that a list of errors names, through constants, too. */
function named(node: Node, names = new Set<string>()): Set<string> {
  eachBelow(node, (child) => {
    const symbol = isIdentifier(child) ? meant(child) : undefined;
    if (symbol && !names.has(symbol.name)) {
      names.add(symbol.name);
      for (const target of declared(symbol)) if (isVariableDeclaration(target)) named(target, names);
    }
    named(child, names);
  });
  return names;
}

const problems: string[] = [];
let mutations = 0;
function look(node: Node): void {
  const property = (name: string): Node | undefined =>
    isObjectLiteralExpression(node) ? node.properties.find((member) => nameOf(member) === name) : undefined;
  const errors = property('errors');
  const resolve = property('resolve');
  if (!errors || !resolve) return eachBelow(node, look);
  mutations++;
  let field: Node = node;
  let title: string | undefined;
  for (; title === undefined; field = field.parent) {
    const [first] = isCallExpression(field) ? field.arguments : [];
    title = isPropertyAssignment(field) ? nameOf(field) : first && isStringLiteral(first) ? first.text : undefined;
  }
  const members = new Set([...common, ...named(errors)]);
  for (const [error, { line, via }] of thrownBy(resolve))
    if (!line.some((one) => members.has(one)))
      problems.push(`${title} can throw ${error}, which its union does not have: ${via.join(' > ')}`);
}

for (const source of sources) collect(source);
for (const source of sources) if (source.text.includes('builder.mutationField')) look(source);
for (const place of stale) problems.push(`tools/thrown.ts: nothing of what ${place} is said not to throw is below it`);
api.close();

if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exitCode = 1;
} else console.log(`${mutations} mutations`);
