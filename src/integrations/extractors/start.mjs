// Where a process that reads a document begins. Its code comes to it without types, from the one who starts it, so that
// it need not load what takes them out: that is half of the processor time of its start. See code.ts.
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';

const codeDescriptor = 5;
const code = JSON.parse(readFileSync(codeDescriptor, 'utf8') || '{}');
registerHooks({
  load(url, context, next) {
    const source = Object.hasOwn(code, url) ? code[url] : undefined;
    return source === undefined ? next(url, context) : { format: 'module', source, shortCircuit: true };
  },
});
await import('./child.ts');
