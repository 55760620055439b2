@rem Runs a task of deno.json on Windows: toy train, toy generate "Once upon a time". It needs Deno 2.9 or Node.
@cd /d "%~dp0"
@where /q deno
@if errorlevel 1 (call npx --yes deno@2.9 task %*) else (deno task %*)
